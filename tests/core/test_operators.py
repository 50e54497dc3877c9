"""Operators: what their signature proves, whom a request may name, and names of KV that nobody else knows."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.errors import InvalidRequestError, TrustError
from osai.core.identity import Identity
from osai.core.manifest.signatures import MANIFEST_CONTEXT
from osai.core.operators import (
    LIFE_S,
    MAX_LIFE_S,
    MAX_TRUSTED,
    OPERATOR_CONTEXT,
    OperatorStatement,
    check_operator,
    state_operator,
    trusted_operators,
    trusted_operators_of_hex,
)
from osai.core.prefix import BLOCK_TOKENS, HASH_BYTES, block_hashes, secret_salt, shareable_hashes

OPERATOR, OTHER = Identity.generate(), Identity.generate()
NODE, ANOTHER = Identity.generate().node_id, Identity.generate().node_id
NOW_S, END_S = 1_800_000_000.0, 1_800_000_000 + LIFE_S
KEYS = [OPERATOR.public_key, OTHER.public_key]


def test_what_is_signed_is_the_context_the_nodes_id_and_the_end() -> None:
    assert OPERATOR_CONTEXT == b"osai.v2.operator\0"
    stated = state_operator(OPERATOR, NODE, END_S)
    by_hand = OPERATOR.sign(b"osai.v2.operator\0" + NODE.encode() + b"\0" + END_S.to_bytes(8, "little"))
    assert stated == OperatorStatement(public_key=OPERATOR.public_key, not_after_s=END_S, signature=by_hand)
    check_operator(stated, NODE, NOW_S)


@pytest.mark.parametrize(
    ("by", "signature", "node_id"),
    [
        (OPERATOR.public_key, state_operator(OPERATOR, NODE, END_S).signature, ANOTHER),
        (OTHER.public_key, state_operator(OPERATOR, NODE, END_S).signature, NODE),
        (OPERATOR.public_key, state_operator(OPERATOR, NODE, END_S - 1).signature, NODE),
        (OPERATOR.public_key, b"", NODE),
        (b"short", bytes(64), NODE),
        (OPERATOR.public_key, OPERATOR.sign(MANIFEST_CONTEXT + NODE.encode()), NODE),
    ],
    ids=["another node", "another operator", "another end", "no signature", "no key", "made for something else"],
)
def test_nothing_else_names_an_operator(by: bytes, signature: bytes, node_id: str) -> None:
    statement = OperatorStatement(public_key=by, not_after_s=END_S, signature=signature)
    with pytest.raises(TrustError, match="names its operator is wrong") as caught:
        check_operator(statement, node_id, NOW_S)
    assert caught.value.subject == node_id


@given(at=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_bit_of_the_signature_can_be_changed(at: int, bit: int) -> None:
    changed = bytearray(state_operator(OPERATOR, NODE, END_S).signature)
    changed[at] ^= 1 << bit
    with pytest.raises(TrustError):
        check_operator(replace(state_operator(OPERATOR, NODE, END_S), signature=bytes(changed)), NODE, NOW_S)


def test_a_statement_counts_until_its_end_and_not_for_ever() -> None:
    stated = state_operator(OPERATOR, NODE, END_S)
    check_operator(stated, NODE, END_S)
    with pytest.raises(TrustError, match="has ended"):
        check_operator(stated, NODE, END_S + 0.5)
    check_operator(stated, NODE, END_S - MAX_LIFE_S)
    with pytest.raises(TrustError, match=f"longer than {MAX_LIFE_S // 86400} days"):
        check_operator(stated, NODE, END_S - MAX_LIFE_S - 1)


def test_one_without_an_end_as_older_nodes_made_them_is_refused() -> None:
    old = OPERATOR.sign(b"osai.v1.operator\0" + NODE.encode())
    with pytest.raises(TrustError, match="without saying until when: update osai"):
        check_operator(OperatorStatement(public_key=OPERATOR.public_key, not_after_s=0, signature=old), NODE, NOW_S)


def test_operators_are_named_by_their_keys_in_any_order_and_form() -> None:
    assert trusted_operators(KEYS) == trusted_operators(reversed(KEYS)) == frozenset(KEYS)
    assert trusted_operators_of_hex([KEYS[0].hex(), KEYS[1].hex().upper()]) == frozenset(KEYS)
    assert trusted_operators([]) == frozenset()


@given(st.binary(max_size=80).filter(lambda key: len(key) != 32))
def test_what_is_no_key_names_nobody(key: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=rf"has {len(key)} bytes"):
        trusted_operators([*KEYS, key])
    with pytest.raises(InvalidRequestError, match="bytes"):
        trusted_operators_of_hex([key.hex()])


@pytest.mark.parametrize("key", ["x" * 64, "me.pub", KEYS[0].hex()[:-1]], ids=["letters", "a file", "too short"])
def test_what_is_not_in_hex_names_nobody(key: str) -> None:
    with pytest.raises(InvalidRequestError, match="64 hex digits, as `osai key create`"):
        trusted_operators_of_hex([key])


def test_a_request_names_so_many_operators_at_most() -> None:
    keys = [number.to_bytes(32) for number in range(MAX_TRUSTED + 1)]
    assert len(trusted_operators(keys[1:])) == MAX_TRUSTED
    with pytest.raises(InvalidRequestError, match=f"at most {MAX_TRUSTED}"):
        trusted_operators(keys)


SECRET = b"s" * 32
TOKENS = st.lists(st.integers(0, 2**32 - 1), min_size=BLOCK_TOKENS + 1, max_size=5 * BLOCK_TOKENS)


@given(prompt=TOKENS)
def test_sessions_of_other_operators_share_no_name_of_a_block(prompt: list[int]) -> None:
    salts = [b"", *(secret_salt(SECRET, keys) for keys in (KEYS, KEYS[:1], KEYS[1:])), secret_salt(b"t", KEYS)]
    names = [shareable_hashes(prompt, salt) for salt in salts]
    assert all(len(name) == HASH_BYTES for some in names for name in some)
    assert len({name for some in names for name in some}) == sum(len(some) for some in names)


@given(prompt=TOKENS, more=TOKENS)
def test_salted_names_go_on_where_they_were(prompt: list[int], more: list[int]) -> None:
    salt = secret_salt(SECRET, reversed(KEYS))
    assert salt == secret_salt(SECRET, KEYS)
    known = block_hashes(prompt, salt=salt)
    assert block_hashes(prompt + more, known=known, salt=salt) == block_hashes(prompt + more, salt=salt)
    assert shareable_hashes(prompt, salt) == known[: (len(prompt) - 1) // BLOCK_TOKENS]


def test_who_names_no_operator_shares_with_all() -> None:
    assert secret_salt(SECRET, ()) == b""
    assert block_hashes(range(BLOCK_TOKENS), salt=b"") == block_hashes(range(BLOCK_TOKENS))
