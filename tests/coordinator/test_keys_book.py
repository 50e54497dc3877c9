"""API keys and the book of them: who is let in, what is kept, what is refused."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.keys_world import ALL, NOW_S, bearer, counting, created, only_key
from osai.coordinator.keys.api_key import ApiKey, Quota, Scope
from osai.coordinator.keys.book import KEPT_S, MAX_KEYS, KeyBook
from osai.coordinator.keys.key_text import NONE_SENT, NOT_VALID, KeyText
from osai.core.errors import (
    ForbiddenError,
    InvalidRequestError,
    OsaiError,
    ResourceExhaustedError,
    TrustError,
    UnauthenticatedError,
)

DIGITS = st.binary(min_size=8, max_size=8).map(bytes.hex)
PATTERNS = st.text("ab*", min_size=1, max_size=8)


def refusal(book: KeyBook, shown: KeyText, now_s: float = NOW_S) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        book.authenticate(shown, now_s)
    return caught.value.message


@given(DIGITS, st.binary(min_size=32, max_size=32))
def test_a_key_is_read_as_it_was_written(key_id: str, secret: bytes) -> None:
    key = KeyText(key_id=key_id, secret=secret)
    assert re.fullmatch(r"osai_sk_[0-9a-f]{16}_[0-9a-f]{64}", key.text)
    assert KeyText.parse(key.text) == KeyText.of_header(bearer(key)) == key
    assert KeyText.of_header(f"bearer  {key.text}") == key


@given(st.text(max_size=100))
def test_what_is_no_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        KeyText.parse(text)
    assert caught.value.message == NOT_VALID


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic osai", "osai_sk_x"])
def test_a_header_without_a_key_is_told_how_to_send_one(header: str | None) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        KeyText.of_header(header)
    assert caught.value.message == NONE_SENT


def test_a_key_lets_its_holder_in() -> None:
    book, text = created(scopes=frozenset({Scope.MODELS}), models=("org/*",))
    key = book.authenticate(KeyText.parse(text.text), NOW_S)
    assert (key.key_id, key.name, key.scopes, key.models) == (
        text.key_id,
        "somebody",
        frozenset({Scope.MODELS}),
        ("org/*",),
    )


def test_an_unknown_id_and_a_wrong_secret_get_the_same_words() -> None:
    book, text = created()
    wrong = replace(text, secret=b"\xff" * 32)
    assert refusal(book, wrong) == refusal(book, replace(wrong, key_id="f" * 16)) == NOT_VALID
    assert refusal(KeyBook(), text) == NOT_VALID


def test_every_bit_of_the_secret_counts() -> None:
    book, text = created()
    for bit in range(256):
        other = (int.from_bytes(text.secret) ^ 1 << bit).to_bytes(32)
        assert refusal(book, replace(text, secret=other)) == NOT_VALID


def test_its_end_is_told_to_the_holder_alone() -> None:
    book, text = created(life_s=60)
    wrong = replace(text, secret=b"\xff" * 32)
    assert book.authenticate(text, NOW_S + 59)
    assert "has expired" in refusal(book, text, NOW_S + 60)
    assert refusal(book, wrong, NOW_S + 60) == NOT_VALID
    revoked = book.revoked(text.key_id, NOW_S + 1)
    assert "is revoked" in refusal(revoked, text)
    assert refusal(revoked, wrong) == NOT_VALID
    assert only_key(revoked.revoked(text.key_id, NOW_S + 9)).revoked_s == int(NOW_S + 1)  # the first time stays


def test_an_id_that_is_none_is_not_revoked_and_not_repeated() -> None:
    _, text = created()
    with pytest.raises(InvalidRequestError) as caught:
        KeyBook().revoked(text.text, NOW_S)
    assert text.secret.hex() not in caught.value.message


def test_scopes_and_models_bound_a_key() -> None:
    book, _ = created(scopes=frozenset({Scope.GENERATE}), models=("org/*", "one"))
    key = only_key(book)
    key.check_scope(Scope.GENERATE)
    key.check_model("org/any")
    key.check_model("one")
    with pytest.raises(ForbiddenError, match="lacks the scope swarm"):
        key.check_scope(Scope.SWARM)
    for model in ("one2", "org", "other/org/x", ""):
        with pytest.raises(ForbiddenError, match="may not use model"):
            key.check_model(model)


@given(PATTERNS, st.text("ab", max_size=8))
def test_a_star_stands_for_anything(pattern: str, model_id: str) -> None:
    key = replace(only_key(created()[0]), models=(pattern,))
    wanted = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert key.may_use(model_id) == bool(re.fullmatch(wanted, model_id))


@given(
    st.frozensets(st.sampled_from(Scope), min_size=1),
    st.lists(PATTERNS, min_size=1, max_size=5),
    st.builds(Quota, **dict.fromkeys(Quota.__dataclass_fields__, st.integers(0, 10**12))),
    st.integers(0, 10**9),
)
def test_a_book_is_read_as_it_was_written(
    scopes: frozenset[Scope], models: list[str], quota: Quota, life_s: int
) -> None:
    book, text = created(scopes=scopes, models=tuple(models), quota=quota, life_s=life_s)
    book, _ = created(book.revoked(text.key_id, NOW_S))
    data = book.to_json()
    assert KeyBook.from_json(data) == book
    assert text.secret.hex().encode() not in data


def test_no_secret_is_shown_by_what_is_printed() -> None:
    book, text = created()
    shown = repr((text, book, only_key(book)))
    assert text.key_id in shown
    assert text.secret.hex() not in shown
    assert str(text.secret)[2:-1] not in shown
    assert text.secret_sha256 not in shown


def damaged(**fields: Any) -> bytes:  # noqa: ANN401 - of any field
    book, _ = created()
    return json.dumps({"format": 1, "keys": [only_key(book).to_entry() | fields]}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"format": 2, "keys": []}',
        b'{"format": 1, "keys": [], "more": 1}',
        b'{"format": 1, "format": 1, "keys": []}',
        b'{"format": 1, "keys": [{}]}',
        damaged(scopes=["root"]),
        damaged(scopes=[{}]),
        damaged(scopes=[]),
        damaged(models=[1]),
        damaged(models=[]),
        damaged(models=["a b"]),
        damaged(key_id="x"),
        damaged(secret_sha256=""),
        damaged(name="a\nb"),
        damaged(expires_s=-1),
        damaged(expires_s=1.5),
        damaged(revoked_s=False),
        damaged(quota={}),
        damaged(quota=Quota().__class__.__name__),
        damaged(more=1),
        b'{"format": 1, "keys": [%s]}' % b",".join([json.dumps(only_key(created()[0]).to_entry()).encode()] * 2),
    ],
)
def test_a_damaged_book_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        KeyBook.from_json(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_book_or_a_typed_error(data: bytes) -> None:
    try:
        KeyBook.from_json(data)
    except OsaiError:
        return
    assert data.lstrip().startswith(b"{")


def test_keys_that_ended_long_ago_make_room() -> None:
    book, random = KeyBook(), counting()
    base = only_key(created()[0])
    full = KeyBook(tuple(replace(base, key_id=f"{i:016x}") for i in range(MAX_KEYS)))
    with pytest.raises(ResourceExhaustedError, match="no room"):
        full.create("x", now_s=NOW_S, random=random, scopes=ALL)
    ended = full.revoked(f"{5:016x}", NOW_S)
    with pytest.raises(ResourceExhaustedError):
        ended.create("x", now_s=NOW_S + KEPT_S, random=random, scopes=ALL)
    book, _ = ended.create("x", now_s=NOW_S + KEPT_S + 2, random=lambda num_bytes: b"\xff" * num_bytes, scopes=ALL)
    assert len(book.keys) == MAX_KEYS
    assert book.find(f"{5:016x}") is None


@pytest.mark.parametrize("name", ["", "x" * 81, "a\nb", "\x1b[2J"])
def test_a_name_is_a_short_line(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="name"):
        KeyBook().create(name, now_s=NOW_S, random=counting(), scopes=ALL)


@pytest.mark.parametrize("limit", [-1, 10**12 + 1, 1.5, True])
def test_a_quota_is_a_whole_number(limit: int) -> None:
    with pytest.raises(InvalidRequestError, match="quota"):
        Quota(tokens_per_day=limit)


def test_a_key_without_scope_is_none() -> None:
    with pytest.raises(InvalidRequestError, match="scope"):
        ApiKey(key_id="0" * 16, secret_sha256="0" * 64, name="x", created_s=0, scopes=frozenset())
