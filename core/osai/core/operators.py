"""Operators: who runs a node, by a signature of their key. Pure.

The O numbers are clauses of docs/security.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from osai.core.errors import InvalidRequestError, TrustError
from osai.core.identity import Identity, verify

OPERATOR_CONTEXT = b"osai.v2.operator\0"  # O1: no signature made for anything else is one of an operator
KEY_BYTES = 32  # of a raw Ed25519 public key
LIFE_S = 90 * 86400  # O2: of a statement: long enough for a node that is started anew now and then
MAX_LIFE_S = 400 * 86400  # O2: one that claims more is believed no more than one without an end
MAX_TRUSTED = 64  # O6: operators that a request may name


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorStatement:
    """An operator's word that a node is their own.

    Attributes:
        public_key: the operator's, 32 bytes.
        not_after_s: seconds since 1970 after which it counts no more.
        signature: by it, over the context, the node's id and the end.
    """

    public_key: bytes
    not_after_s: int
    signature: bytes


def state_operator(operator: Identity, node_id: str, not_after_s: int) -> OperatorStatement:
    """Say that a node is this operator's, until then (O1)."""
    signature = operator.sign(_signed(node_id, not_after_s))
    return OperatorStatement(public_key=operator.public_key, not_after_s=not_after_s, signature=signature)


def check_operator(statement: OperatorStatement, node_id: str, now_s: float) -> None:
    """Accept an operator's word about a node (O2); `now_s`: seconds since 1970.

    Raises:
        TrustError: if it is not that operator's, or about another node, or has ended, or claims to last for too long.
    """
    if not statement.not_after_s:
        raise TrustError(
            f"node {node_id} names its operator without saying until when: update osai there", subject=node_id
        )
    if not now_s <= statement.not_after_s <= now_s + MAX_LIFE_S:
        raise TrustError(
            f"what node {node_id} says of its operator has ended, or is for longer than {MAX_LIFE_S // 86400} days: "
            "start it anew with the operator's key, and see to its clock",
            subject=node_id,
        )
    if not verify(statement.public_key, statement.signature, _signed(node_id, statement.not_after_s)):
        raise TrustError(
            f"the signature by which node {node_id} names its operator is wrong: start it with the operator's own key",
            subject=node_id,
        )


def _signed(node_id: str, not_after_s: int) -> bytes:
    return OPERATOR_CONTEXT + node_id.encode() + b"\0" + not_after_s.to_bytes(8, "little")


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
