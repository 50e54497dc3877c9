"""Who comes and then says nothing, or too slowly, holds nothing for long, and keeps nobody out."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from scripts.chaos_runs.wire_http2 import connected, grpc_message

from osai.core import frame_receiver, reading, rpc
from osai.core.errors import DeadlineExceededError, InvalidRequestError, OsaiError, ResourceExhaustedError
from osai.core.frame_receiver import FrameReceiver
from osai.core.port import port as port_module
from osai.core.port.port import Connection, Handler, Port
from osai.core.rpc import bind, error_of, insecure_channel, make_server

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """A server whose calls take one request each."""
    server = make_server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


async def ended(address: str, method: str, *, sends: bytes | None) -> OsaiError:
    """How a call ends that says this, and nothing more; None: it ends without a word."""
    async with insecure_channel(address) as channel:
        call: Any = channel.stream_stream(method)()
        try:
            async with asyncio.timeout(10):
                if sends is None:
                    await call.done_writing()
                await call.read()
        except grpc.aio.AioRpcError as e:
            return error_of(e)
    pytest.fail("the call went on")


@pytest.mark.parametrize("method", [CHECK, WATCH])
async def test_a_request_that_never_comes_ends_its_call(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to be waited for without end: as many calls as a server takes could be held so."""
    monkeypatch.setattr(reading, "REQUEST_DEADLINE_S", 0.1)
    async with serving() as address:
        assert isinstance(await ended(address, method, sends=b""), DeadlineExceededError)
        assert isinstance(await ended(address, method, sends=None), InvalidRequestError)


async def test_a_request_that_trickles_in_ends_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "REQUEST_DEADLINE_S", 0.3)
    async with serving() as address, connected(address) as it, asyncio.timeout(10):
        it.call(1, CHECK)
        for byte in grpc_message(bytes(1000)):
            if it.ended(1):
                break
            await it.data(1, bytes([byte]))
            await asyncio.sleep(0.01)
        assert b"did not come within" in await it.until_ended(1)


async def test_a_server_takes_so_many_calls_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_CALLS", 3)
    async with serving() as address, connected(address) as it, asyncio.timeout(10):
        for i in range(3):
            it.call(2 * i + 1, WATCH)
        await asyncio.sleep(0.2)
        assert isinstance(await ended(address, CHECK, sends=b""), ResourceExhaustedError)


class Wires(asyncio.Transport):
    """A transport that ends at once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def set_protocol(self, _: asyncio.BaseProtocol) -> None:
        self.calls.append("taken")

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.calls.append("abort")


async def test_a_frame_that_does_not_come_whole_ends_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_receiver, "MESSAGE_DEADLINE_S", 0.1)
    it, wires = FrameReceiver(), Wires()
    it.take(wires, b"\x02\0\0\0\x5a\0" * 3 + b"\x64\0\0\0")
    for _ in range(3):
        await it.next()
    begun_s = time.monotonic()
    async with asyncio.timeout(5):
        while "abort" not in wires.calls:
            await asyncio.sleep(0.01)
            it.data_received(b"\0")  # on and on, and never enough
    with pytest.raises(DeadlineExceededError):
        await it.next()
    assert time.monotonic() - begun_s < 2


async def test_each_frame_has_its_own_time_and_a_link_between_two_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_receiver, "MESSAGE_DEADLINE_S", 0.3)
    it, wires = FrameReceiver(), Wires()
    it.take(wires, b"")
    for _ in range(3):
        for part in (b"\x02\0", b"\0\0\x5a", b"\0\x02", b"\0\0\0\x5a\0"):  # the second begins with the end of the first
            it.data_received(part)
            await asyncio.sleep(0.06)
        await it.next()
        await it.next()
    await asyncio.sleep(0.5)
    assert "abort" not in wires.calls
    it.close()


async def test_frames_that_wait_are_bounded_by_their_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their number alone they were 4 GiB."""
    monkeypatch.setattr(frame_receiver, "MAX_UNREAD_BYTES", 1000)
    it, wires = FrameReceiver(), Wires()
    large = b"\x12\xf4\x03" + b"\x22\xf1\x03" + bytes(497)  # frames with data
    for _ in range(3):
        it.take(wires, len(large).to_bytes(4, "little") + large)
    assert "pause" in wires.calls
    for _ in range(3):
        assert "resume" not in wires.calls
        assert len((await it.next()).frames.data) == 497
    assert wires.calls[-1] == "resume"
    it.close()


async def test_many_that_say_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They used to: while as many as may be were silent, everybody else was refused."""
    monkeypatch.setattr(port_module, "MAX_UNDECIDED", 10)

    async def greet(connection: Connection) -> None:
        connection.transport.write(b"welcome")

    def classify(seen: bytes) -> Handler | None:
        return greet if seen == b"hello" else None

    async with Port.listening("127.0.0.1:0", classify) as it, asyncio.timeout(10):
        silent = [await asyncio.open_connection("127.0.0.1", it.number) for _ in range(15)]
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", it.number)
            writer.write(b"hello")
            assert await reader.readexactly(7) == b"welcome"
            writer.transport.abort()
        assert it.num_undecided <= 10
        assert await silent[0][0].read() == b""  # the oldest had to go
        for _, writer in silent:
            writer.transport.abort()
        while it.num_undecided:  # noqa: ASYNC110 - ends of connections are no events here
            await asyncio.sleep(0.01)


async def test_a_port_takes_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_module, "MAX_OPEN", 3)

    async def keep(_: Connection) -> None:
        """It stays open."""

    async with Port.listening("127.0.0.1:0", lambda _: keep) as it, asyncio.timeout(10):
        kept = []
        for _ in range(3):
            kept.append(await asyncio.open_connection("127.0.0.1", it.number))
            kept[-1][1].write(b"x")
        while it.num_open < 3 or it.num_undecided:  # noqa: ASYNC110 - connections are no events here
            await asyncio.sleep(0.01)
        reader, late = await asyncio.open_connection("127.0.0.1", it.number)
        assert await reader.read() == b""
        for writer in (late, *(writer for _, writer in kept)):
            writer.transport.abort()
