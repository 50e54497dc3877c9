"""JSON of one form alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.errors import TrustError
from osai.core.manifest.encode import canonical
from osai.core.strict_json import fields_of, read_json

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_what_is_written_canonically_is_read(value: object) -> None:
    assert read_json("thing", canonical(value), 2**20) == value


@given(st.binary(max_size=40))
def test_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read = read_json("thing", data, 2**20)
    except TrustError:
        return
    assert read_json("thing", canonical(read), 2**20) == read


@pytest.mark.parametrize(
    "data", [b"1.0", b"1e5", b"NaN", b"-Infinity", b'{"a":1,"a":1}', b"1" * 5000, b"[" * 200_000, b"\xc3(", b"1 1", b""]
)
def test_other_forms_are_refused(data: bytes) -> None:
    with pytest.raises(TrustError, match="the thing is damaged"):
        read_json("thing", data, 2**20)


def test_what_is_too_large_is_not_parsed() -> None:
    assert read_json("thing", b"[]   ", 5) == []
    with pytest.raises(TrustError, match="a thing of 6 bytes is over the limit of 5"):
        read_json("thing", b"[]    ", 5)


@pytest.mark.parametrize("value", [[], None, {}, {"n": True}, {"n": "1"}, {"n": 1, "m": 1}, {"m": 1}])
def test_an_object_has_exactly_its_fields(value: object) -> None:
    assert fields_of("thing", {"n": 1}, {"n": int}) == {"n": 1}
    with pytest.raises(TrustError, match="thing"):
        fields_of("thing", value, {"n": int})
