"""From where a gRPC call comes: told by gRPC, or by the name of a spliced connection's own end."""

import asyncio
import tempfile
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from osai.core.port.callers import caller_host, spliced_name
from osai.core.port.port import Port, spliced_to
from osai.core.rpc import bind, insecure_channel, make_server

tokens = st.from_regex("[0-9a-f]{16}", fullmatch=True)


@given(address=st.ip_addresses(v=4), port=st.integers(1, 65535), token=tokens)
def test_an_address_is_the_same_however_the_call_came(address: object, port: int, token: str) -> None:
    name = spliced_name(token, str(address)).decode().lstrip("\0")
    assert caller_host(f"ipv4:{address}:{port}") == caller_host(f"unix-abstract:{name}") == str(address)
    assert caller_host(f"ipv6:[::ffff:{address}]:{port}") == str(address)


@given(address=st.ip_addresses(v=6), host=st.integers(0, 2**64 - 1), token=tokens)
def test_a_subnet_is_one_caller(address: Any, host: int, token: str) -> None:  # noqa: ANN401
    assume(int(address) >> 64 > 0)  # there IPv4 addresses are mapped to
    neighbour = IPv6Address(int(address) >> 64 << 64 | host)
    told = caller_host(f"ipv6:%5B{str(address).replace(':', '%3A')}%5D:1")
    assert told == caller_host(f"ipv6:[{neighbour}]:2")
    assert told == caller_host("unix-abstract:" + spliced_name(token, str(neighbour)).decode()[1:].replace(":", "%3A"))
    assert int(IPv6Address(told)) >> 64 == int(address) >> 64


@given(st.text(max_size=60) | st.from_regex(r"(ipv4|ipv6|unix|unix-abstract):[-\[\]0-9a-f.:%]*", fullmatch=True))
def test_whatever_is_told_it_is_an_address_or_nothing(peer: str) -> None:
    host = caller_host(peer)
    assert host == "" or str(ip_address(host)) == host


@pytest.mark.parametrize("peer", ["", "unix:", "unix:/tmp/x", "unix-abstract:other-1-127.0.0.1", "ipv4:me:1"])
def test_who_is_unknown_is_nobody(peer: str) -> None:
    assert caller_host(peer) == ""


async def test_a_spliced_call_says_from_where_it_comes() -> None:
    hosts: list[str] = []

    async def call(_: bytes, context: Any) -> bytes:  # noqa: ANN401
        hosts.append(caller_host(context.peer()))
        return b"ok"

    server = make_server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Call": grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    with tempfile.TemporaryDirectory(prefix="osai-") as folder:
        socket = str(Path(folder) / "grpc")
        bind(server, f"unix:{socket}")
        await server.start()
        async with Port.listening("127.0.0.1:0", lambda _: spliced_to(socket)) as port, asyncio.timeout(10):
            for _ in range(3):
                async with insecure_channel(f"127.0.0.1:{port.number}") as channel:
                    asked: Any = channel.unary_unary("/t/Call")
                    assert await asked(b"") == b"ok"
            await server.stop(None)
    assert hosts == ["127.0.0.1"] * 3
