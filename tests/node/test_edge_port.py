"""A node's port: gRPC and the bare streams of links come in by the same door, and the two of a link end together."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from osai.core import frame_receiver
from osai.core.errors import BadFrameError, OsaiError, ResourceExhaustedError, SetupError, UnavailableError
from osai.core.frame_stream import PREFIX, TICKET_BYTES
from osai.core.link import EdgeLink, LinkConfig, Outbox, edge_link
from osai.core.port import port
from osai.core.rpc import EDGE_MAX_BYTES, make_server
from osai.core.standard_services import add_standard_services, is_serving
from osai.node.edge_port import EdgePort
from osai.node.edge_service import EdgeService
from osai.node.ring import Ring
from osai.proto import edge_pb2, edge_pb2_grpc

Message = edge_pb2.LinkMessage


def close(session: int) -> Message:
    return Message(close=edge_pb2.CloseSession(session=session))


@dataclass
class Ears:
    """What EdgeService uses of a ring: keeps what comes, and answers with the same."""

    received: list[Message] = field(default_factory=list)
    outboxes: dict[int, Outbox[Message]] = field(default_factory=dict)
    open_door: asyncio.Event = field(default_factory=asyncio.Event)

    def attach(self, peer: str, _member: object = None, host: str = "") -> tuple[int, Outbox[Message]]:
        owner = len(self.outboxes) + 1
        self.outboxes[owner] = Outbox(peer, 4096)
        return owner, self.outboxes[owner]

    def detach(self, owner: int) -> None:
        del self.outboxes[owner]

    async def receive(self, owner: int, message: Message) -> None:
        await self.open_door.wait()
        self.received.append(message)
        self.outboxes[owner].put(message)


@dataclass
class Edge:
    ears: Ears
    port: EdgePort
    got: list[Message] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port.port}"

    @asynccontextmanager
    async def dialled(
        self, config: LinkConfig | None = None
    ) -> "AsyncIterator[tuple[EdgeLink, asyncio.Task[OsaiError]]]":
        """A link that has its stream."""
        link = edge_link("node", self.address, "me", self.got.append, config)
        running = asyncio.create_task(link.run())
        try:
            await until(lambda: link._stream is not None)
            yield link, running
        finally:
            running.cancel()
            await asyncio.wait([running])


@asynccontextmanager
async def edge() -> AsyncIterator[Edge]:
    server, ears = make_server(max_message_bytes=EDGE_MAX_BYTES), Ears()
    ears.open_door.set()
    async with EdgePort.listening(server, "127.0.0.1:0") as it:
        edge_pb2_grpc.add_EdgeServicer_to_server(EdgeService("node", cast("Ring", ears), it), server)
        await (await add_standard_services(server, [])).set_serving(serving=True)
        await server.start()
        try:
            yield Edge(ears, it)
        finally:
            await server.stop(None)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - links report by callback
            await asyncio.sleep(0.005)


async def test_messages_keep_their_order_and_none_goes_by_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_call(*_: Any) -> None:  # noqa: ANN401
        await asyncio.Event().wait()

    monkeypatch.setattr(EdgeService, "_read_call", no_call)
    async with edge() as it:
        link = edge_link("node", it.address, "me", it.got.append)
        for i in range(100):
            link.send(close(i))  # queued before the greeting
        running = asyncio.create_task(link.run())
        await until(lambda: link._stream is not None)
        for i in range(100, 500):
            link.send(close(i))
        await until(lambda: len(it.got) == 500)
        running.cancel()
        await asyncio.wait([running])
    assert [m.close.session for m in it.got] == [m.close.session for m in it.ears.received] == list(range(500))


async def test_grpc_comes_in_by_the_same_port() -> None:
    async with edge() as it:
        assert await is_serving(it.address, 5)


async def test_large_messages_arrive_whole() -> None:
    async with edge() as it, it.dialled() as (link, _):
        sent = [Message(frames=edge_pb2.FrameBatch(data=bytes([i]) * (3 * 2**20 + i))) for i in range(8)]
        for message in sent:
            link.send(message)
        await until(lambda: len(it.ears.received) == len(sent))
        assert it.ears.received == sent


async def test_a_node_that_does_not_keep_up_fills_the_queue_and_not_the_memory() -> None:
    async with edge() as it, it.dialled(LinkConfig(max_queued_messages=4)) as (link, _):
        it.ears.open_door.clear()
        big = Message(frames=edge_pb2.FrameBatch(data=bytes(2**20)))
        num_sent = await fill(link, big)
        assert 4 <= num_sent < frame_receiver.MAX_UNREAD_MESSAGES + 50  # and the kernel's buffers
        it.ears.open_door.set()
        await until(lambda: len(it.ears.received) == num_sent)  # what was taken arrives
        link.send(close(1))
        await until(lambda: it.ears.received[-1] == close(1))


async def fill(link: EdgeLink, message: Message) -> int:
    """Send until the queue is full; how many went."""
    for num_sent in range(1000):
        try:
            link.send(message)
        except ResourceExhaustedError:
            return num_sent
        await asyncio.sleep(0.002)
    return 1000


@pytest.mark.parametrize(
    ("junk", "error"),
    [
        (b"\x03\x00\x00\x00\xff\xff\xff", BadFrameError),
        ((EDGE_MAX_BYTES + 1).to_bytes(4, "little"), ResourceExhaustedError),
    ],
)
async def test_a_stream_of_something_else_ends_its_link_with_the_reason(junk: bytes, error: type[OsaiError]) -> None:
    async with edge() as it, it.dialled() as (link, running), it.dialled() as (other, _):
        assert link._stream is not None
        assert link._stream._transport is not None
        link._stream._transport.write(junk)
        assert type(await asyncio.wait_for(running, 5)) is error
        other.send(close(1))
        await until(lambda: it.ears.received == [close(1)])
        assert len(it.ears.outboxes) == 1


async def test_a_message_over_the_limit_is_refused_at_once() -> None:
    async with edge() as it, it.dialled() as (link, _):
        with pytest.raises(ResourceExhaustedError, match="over a link's limit"):
            link.send(Message(frames=edge_pb2.FrameBatch(data=bytes(EDGE_MAX_BYTES + 1))))
        link.send(close(1))
        await until(lambda: it.ears.received == [close(1)])


async def test_a_stream_that_is_cut_ends_its_link_on_both_sides() -> None:
    async with edge() as it, it.dialled() as (link, running):
        assert link._stream is not None
        link._stream.close()
        began_s = time.monotonic()
        error = await asyncio.wait_for(running, 5)
        assert (type(error), error.subject) == (UnavailableError, "node")
        assert time.monotonic() - began_s < 3
        await until(lambda: not it.ears.outboxes)
        with pytest.raises(UnavailableError):
            link.send(close(1))


async def test_links_that_are_cancelled_leave_nothing_behind() -> None:
    async def once(it: Edge) -> None:
        async with it.dialled() as (link, _):
            pass
        with pytest.raises(UnavailableError):
            link.send(close(1))

    def gone(it: Edge) -> bool:
        gc.collect()  # a channel's connection ends with its last reference, here in a cancelled task's traceback
        return not (it.ears.outboxes or it.port.num_open or it.port._tickets)

    async with edge() as it:
        for _ in range(3):
            await once(it)
        await until(lambda: gone(it))


async def test_without_its_stream_a_link_goes_by_grpc(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:  # noqa: ANN401
    async def no_stream(*_: object) -> None:
        raise UnavailableError("no stream")

    monkeypatch.setattr("osai.core.link.dial_stream", no_stream)
    async with edge() as it:
        link = edge_link("node", it.address, "me", it.got.append)
        running = asyncio.create_task(link.run())
        link.send(close(1))
        await until(lambda: it.got == [close(1)])
        assert link._stream is None
        running.cancel()
        await asyncio.wait([running])
    assert "by gRPC alone" in caplog.text


async def closes(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(5):
        assert await reader.read() == b""


@pytest.mark.parametrize("first", [b"", PREFIX[:5], PREFIX + bytes(TICKET_BYTES)])
async def test_a_connection_without_a_ticket_is_ended(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "FIRST_BYTES_DEADLINE_S", 0.1)
    async with edge() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port.port)
        writer.write(first)
        await closes(reader)
        writer.close()


async def test_a_ticket_is_good_once_and_may_come_in_pieces() -> None:
    async with edge() as it:
        ticket, receiver = it.port.offer()
        body = close(7).SerializeToString()
        whole = PREFIX + ticket + len(body).to_bytes(4, "little") + body
        _, writer = await asyncio.open_connection("127.0.0.1", it.port.port)
        for i in range(0, len(whole), 5):
            writer.write(whole[i : i + 5])
            await asyncio.sleep(0.002)
        async with asyncio.timeout(5):
            assert await receiver.next() == close(7)
        second, again = await asyncio.open_connection("127.0.0.1", it.port.port)
        again.write(whole)
        await closes(second)
        writer.close()
        again.close()
        async with asyncio.timeout(5):
            with pytest.raises(UnavailableError):
                await receiver.next()


async def test_a_port_in_use_is_said() -> None:
    async with edge() as it:
        with pytest.raises(SetupError, match="can't listen"):
            async with EdgePort.listening(make_server(), it.address):
                pytest.fail("two listen on one port")
