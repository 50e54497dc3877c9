"""Operators: who runs a node, by a signature of their key. Pure.

The O numbers are clauses of docs/security.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from osai.core.errors import InvalidRequestError, TrustError
from osai.core.identity import Identity, verify

OPERATOR_CONTEXT = b"osai.v1.operator\0"  # O1: no signature made for anything else is one of an operator
KEY_BYTES = 32  # of a raw Ed25519 public key
MAX_TRUSTED = 64  # O6: operators that a request may name


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorStatement:
    """An operator's word that a node is their own.

    Attributes:
        public_key: the operator's, 32 bytes.
        signature: by it, over the context and the node's id.
    """

    public_key: bytes
    signature: bytes


def state_operator(operator: Identity, node_id: str) -> OperatorStatement:
    """Say that a node is this operator's (O1)."""
    signature = operator.sign(OPERATOR_CONTEXT + node_id.encode())
    return OperatorStatement(public_key=operator.public_key, signature=signature)


def check_operator(statement: OperatorStatement, node_id: str) -> None:
    """Accept an operator's word about a node (O2).

    Raises:
        TrustError: if it is not that operator's, or about another node.
    """
    if not verify(statement.public_key, statement.signature, OPERATOR_CONTEXT + node_id.encode()):
        raise TrustError(
            f"the signature by which node {node_id} names its operator is wrong: start it with the operator's own key",
            subject=node_id,
        )


def trusted_operators(keys: Iterable[bytes]) -> frozenset[bytes]:
    """The operators that a request names (O6), as a set.

    Raises:
        InvalidRequestError: if a key is none, or there are too many.
    """
    named = frozenset(keys)
    if len(named) > MAX_TRUSTED:
        raise InvalidRequestError(f"{len(named)} trusted operators are named; at most {MAX_TRUSTED} are taken")
    for key in named:
        if len(key) != KEY_BYTES:
            raise InvalidRequestError(
                f"a trusted operator's key has {len(key)} bytes; give Ed25519 public keys, {KEY_BYTES} bytes each"
            )
    return named


def trusted_operators_of_hex(keys: Iterable[str]) -> frozenset[bytes]:
    """The operators that a request names by hex digits (O6), as a set.

    Raises:
        InvalidRequestError: as `trusted_operators`, and if one is not written in hex.
    """
    try:
        return trusted_operators(bytes.fromhex(key) for key in keys)
    except ValueError as e:
        raise InvalidRequestError(
            f"a trusted operator is a public key of {2 * KEY_BYTES} hex digits, as `osai key create` prints it"
        ) from e
