"""HttpServer: binding, its address, and what goes wrong."""

import asyncio
import signal
import socket
import time

import httpx
import pytest
import uvloop

from gateway.fake_generations import FakeGenerations
from gateway.front_door import serving
from osai.coordinator.gateway.listener import bind_listener
from osai.coordinator.gateway.server import HttpServer
from osai.core.errors import SetupError


async def app(scope: object, receive: object, send: object) -> None:
    """Never asked in these tests."""


async def test_a_port_in_use_is_a_typed_error_that_names_the_flag() -> None:
    async with HttpServer(app, host="127.0.0.1", port=0) as first:
        second = HttpServer(app, host="127.0.0.1", port=first.address[1], flag="--http-listen")
        with pytest.raises(SetupError, match=rf"127\.0\.0\.1:{first.address[1]}.*in use.*--http-listen"):
            await second.start()
        await second.stop()  # has nothing to do


@pytest.mark.parametrize(
    ("host", "port"),
    [("127.0.0.1", 70_000), ("127.0.0.1", -1), ("203.0.113.7", 0), ("no.such.host.invalid", 0), ("a" * 70, 0)],
)
async def test_an_address_that_cannot_be_bound_is_a_typed_error(host: str, port: int) -> None:
    with pytest.raises(SetupError, match=r"can't listen on .* with --http"):
        await HttpServer(app, host=host, port=port).start()


async def test_a_port_is_free_again_after_a_stop() -> None:
    async with HttpServer(app, host="127.0.0.1", port=0) as server:
        port = server.address[1]
    async with HttpServer(app, host="127.0.0.1", port=port) as again:
        assert again.url == f"http://127.0.0.1:{port}"


async def test_an_ipv6_address_is_bracketed() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    async with HttpServer(app, host="::1", port=0) as server:
        assert server.url == f"http://[::1]:{server.address[1]}"


async def test_there_is_no_address_before_the_start_and_no_second_start() -> None:
    server = HttpServer(app, host="127.0.0.1", port=0)
    with pytest.raises(SetupError, match="before it is started"):
        _ = server.url
    async with server:
        with pytest.raises(SetupError, match="running already"):
            await server.start()


async def test_signal_handlers_stay_the_process_s_own() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with HttpServer(app, host="127.0.0.1", port=0):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_an_idle_stop_is_quick_though_connections_are_kept_alive() -> None:
    async with httpx.AsyncClient() as client:
        async with serving(FakeGenerations()) as url:
            assert (await client.get(f"{url}/healthz")).status_code == 200
            began = time.monotonic()
        assert time.monotonic() - began < 0.8


async def test_accepted_connections_notice_a_vanished_client() -> None:
    accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    class Recording(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(transport.get_extra_info("socket"))

    listener = await bind_listener("127.0.0.1", 0, flag="--http")
    server = await asyncio.get_running_loop().create_server(Recording, sock=listener)
    async with server:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        theirs = await accepted
        assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
        writer.transport.abort()


def test_it_serves_under_uvloop() -> None:
    async def main() -> int:
        async with serving(FakeGenerations()) as url, httpx.AsyncClient(base_url=url) as client:
            answers = [
                await client.post("/v1/completions", json={"prompt": "x", "stream": stream}) for stream in (True, False)
            ]
            with pytest.raises(SetupError, match="in use"):
                await HttpServer(app, host="127.0.0.1", port=int(url.rpartition(":")[2])).start()
            return sum(answer.status_code for answer in answers)

    assert uvloop.run(main()) == 400
