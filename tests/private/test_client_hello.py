"""A connection's first bytes: what a TLS hello asks for, and that nothing else passes for one."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.chaos_runs.sound_hello import client_hello

from osai.core.errors import PeerError
from osai.core.port.client_hello import MAX_HELLO_BYTES, read_client_hello


def test_a_hello_says_whom_it_is_for_and_what_it_speaks() -> None:
    told = read_client_hello(client_hello())
    assert told is not None
    assert (told.server_name, told.speaks_tls_1_3) == ("join.osai.internal", True)
    nameless = read_client_hello(client_hello(None))
    assert nameless is not None
    assert nameless.server_name == ""


def test_an_old_dialler_is_known_by_its_client_hello() -> None:
    told = read_client_hello(client_hello(newest=ssl.TLSVersion.TLSv1_2))
    assert told is not None
    assert not told.speaks_tls_1_3


def test_a_hello_in_pieces_is_waited_for() -> None:
    whole = client_hello()
    assert all(read_client_hello(whole[:size]) is None for size in range(1, len(whole)))
    assert read_client_hello(whole + b"more") is not None


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\xff\xff", b"\x16\x03\x01" + (MAX_HELLO_BYTES + 1).to_bytes(2, "big")],
)
def test_what_is_no_hello_or_too_large_is_refused_before_it_is_all_there(first: bytes) -> None:
    with pytest.raises(PeerError):
        read_client_hello(first)


@given(at=st.integers(0, 600), value=st.integers(0, 255), cut=st.integers(0, 600))
def test_whatever_comes_it_is_a_hello_or_refused_or_waited_for(at: int, value: int, cut: int) -> None:
    data = bytearray(client_hello())
    data[at % len(data)] = value
    data[3:5] = (min(cut, len(data) - 5)).to_bytes(2, "big")
    try:
        told = read_client_hello(bytes(data))
    except PeerError:
        return
    assert told is None or isinstance(told.server_name, str)
