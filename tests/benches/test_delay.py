"""The delaying relay: order, counts, delays and ends are those of a long cable."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from scripts.benches.fine_timer import FineTimer
from scripts.benches.raw_echo import tcp_echo_server
from scripts.benches.relay import Relay, free_port
from scripts.benches.shim_error import one_way_s

DELAY_S = 0.05
LATE_S = 0.03  # what a busy machine may add


@asynccontextmanager
async def relayed_echo(delay_s: float) -> AsyncIterator[tuple[Relay, asyncio.StreamReader, asyncio.StreamWriter]]:
    async with AsyncExitStack() as stack:
        relay = Relay(await stack.enter_async_context(tcp_echo_server()), delay_s)
        host, _, port = (await stack.enter_async_context(relay.laid())).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        stack.callback(writer.close)
        yield relay, reader, writer


async def test_a_delay_is_kept_in_each_direction() -> None:
    assert await one_way_s(DELAY_S, 3) == pytest.approx(DELAY_S, abs=LATE_S)


async def test_a_delay_does_not_limit_the_rate_and_keeps_the_order() -> None:
    sent = b"".join(i.to_bytes(4, "big") for i in range(2**20))  # 4 MiB: a window of 64 KiB would need 64 round trips
    async with relayed_echo(DELAY_S) as (relay, reader, writer):
        start_s = time.monotonic()
        writer.write(sent)
        async with asyncio.timeout(10):
            assert await reader.readexactly(len(sent)) == sent
        assert 2 * DELAY_S <= time.monotonic() - start_s < 1.0
        assert relay.counts() == [(len(sent), len(sent))]


async def test_a_delay_that_gets_shorter_lets_nothing_overtake() -> None:
    async with relayed_echo(DELAY_S) as (relay, reader, writer):
        writer.write(b"a" * 100)
        await asyncio.sleep(DELAY_S / 5)
        relay.delay_s = 0.0
        writer.write(b"b" * 100)
        async with asyncio.timeout(5):
            assert await reader.readexactly(200) == b"a" * 100 + b"b" * 100


async def test_the_end_comes_after_all_that_was_sent() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server, Relay(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", DELAY_S).laid() as address:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        async with asyncio.timeout(5):
            assert await reader.read() == b"last words"
        writer.close()


async def test_where_nothing_listens_a_relayed_connection_ends() -> None:
    async with Relay(f"127.0.0.1:{free_port()}").laid() as address:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_a_timer_fires_once_at_its_last_setting() -> None:
    timer, fired = FineTimer(), list[float]()
    try:
        start_s = time.monotonic()
        timer.set(start_s + 5, lambda: fired.append(0.0))
        timer.set(start_s + 0.02, lambda: fired.append(time.monotonic() - start_s))
        await asyncio.sleep(0.1)
    finally:
        timer.close()
    assert len(fired) == 1
    assert 0.02 <= fired[0] < 0.02 + LATE_S


async def test_a_closed_timer_does_not_fire() -> None:
    timer, fired = FineTimer(), list[int]()
    timer.set(time.monotonic() + 0.01, lambda: fired.append(1))
    timer.close()
    timer.close()
    timer.set(time.monotonic(), lambda: fired.append(2))
    await asyncio.sleep(0.03)
    assert fired == []
