"""Links over loopback: greetings, losses and full queues are typed, told once, and in time."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coordinator.fake_stage import FakeStage, Message, silent, stages
from osai.core.errors import (
    BadFrameError,
    InternalError,
    OsaiError,
    ProtocolMismatchError,
    ResourceExhaustedError,
    UnavailableError,
)
from osai.core.link import EdgeLink, LinkConfig, edge_link
from osai.core.link_pool import Lane, LinkPool
from osai.core.protocol import PROTOCOL_VERSION, hello
from osai.core.rpc import EDGE_MAX_BYTES, abort, bind, make_server
from osai.proto import common_pb2, edge_pb2, edge_pb2_grpc

SOON_S = 1.0
NOWHERE = "127.0.0.1:9"  # nothing listens on the discard port
QUICK = LinkConfig(greeting_deadline_s=0.3)


def close(session: int) -> Message:
    return Message(close=edge_pb2.CloseSession(session=session))


def echo(message: Message) -> Iterable[Message]:
    yield message


def sessions(messages: Iterable[Message]) -> list[int]:
    return [message.close.session for message in messages]


@asynccontextmanager
async def dialled(link: EdgeLink) -> "AsyncIterator[asyncio.Task[OsaiError]]":
    running = asyncio.create_task(link.run())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait([running])


@asynccontextmanager
async def servicer(it: edge_pb2_grpc.EdgeServicer) -> AsyncIterator[str]:
    server = make_server(max_message_bytes=EDGE_MAX_BYTES)
    edge_pb2_grpc.add_EdgeServicer_to_server(it, server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


class Cable:
    """A TCP proxy that can be cut."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._ends: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._ends += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(2**16):
                sink.write(data)
                await sink.drain()


async def test_messages_go_both_ways_in_order() -> None:
    peer, got = FakeStage("p", echo), list[Message]()
    async with stages(peer):
        link = edge_link("p", peer.address, "me", got.append)
        for i in range(100):
            link.send(close(i))  # queued before the greeting: they go out after it
        async with dialled(link):
            await peer.got("close", 100)
            for i in range(100, 500):
                link.send(close(i))
            await peer.got("close", 500)
            async with asyncio.timeout(SOON_S):
                while len(got) < 500:  # noqa: ASYNC110 - messages come by callback
                    await asyncio.sleep(0.005)
    assert sessions(got) == sessions(peer.received) == list(range(500))


async def test_the_greeting_comes_before_anything_else() -> None:
    class Ears(edge_pb2_grpc.EdgeServicer):
        async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
            heard.append(await anext(request_iterator))
            await asyncio.sleep(0.1)
            await context.write(Message(hello=hello("p")))
            heard.append(await anext(request_iterator))

    heard: list[Message] = []
    async with servicer(Ears()) as address:
        link = edge_link("p", address, "me", lambda _: None)
        link.send(close(7))
        async with dialled(link) as running:
            error = await asyncio.wait_for(running, 5)
    assert [message.WhichOneof("kind") for message in heard] == ["hello", "close"]
    assert (heard[0].hello.newest_version, heard[0].hello.peer_id) == (PROTOCOL_VERSION, "me")
    assert isinstance(error, UnavailableError)  # the peer has ended the stream in peace
    assert error.message == "the link to p was closed"


async def test_a_peer_of_another_version_is_refused() -> None:
    peer = FakeStage("p", greeting=common_pb2.Hello(protocol_version=99, software="osai/9"))
    async with stages(peer):
        link = edge_link("p", peer.address, "me", lambda _: None)
        error = await asyncio.wait_for(link.run(), 5)
    assert isinstance(error, ProtocolMismatchError)
    assert "osai/9 speaks protocol 99" in error.message
    with pytest.raises(ProtocolMismatchError):
        link.send(close(1))


@pytest.mark.parametrize("words_first", [False, True])
async def test_a_peer_that_refuses_says_why(words_first: bool) -> None:
    """A coordinator says it in a message first, which used to hide the typed reason behind it."""

    class Refuser(edge_pb2_grpc.EdgeServicer):
        async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
            if words_first:
                await context.write(Message())
            await abort(context, ProtocolMismatchError("too old"))

    async with servicer(Refuser()) as address:
        error = await asyncio.wait_for(edge_link("p", address, "me", lambda _: None).run(), 5)
    assert (type(error), error.message, error.subject) == (ProtocolMismatchError, "too old", "p")


@pytest.mark.parametrize("how", ["no server", "deaf socket", "mute server", "ends at once"])
async def test_a_peer_that_never_answers_is_unavailable_in_time(how: str) -> None:
    class Mute(edge_pb2_grpc.EdgeServicer):
        async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
            if how == "mute server":
                await asyncio.sleep(60)

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        async with servicer(Mute()) as address:
            addresses = {"no server": NOWHERE, "deaf socket": f"127.0.0.1:{deaf.getsockname()[1]}"}
            link = edge_link("p", addresses.get(how, address), "me", lambda _: None, QUICK)
            began_s = time.monotonic()
            error = await asyncio.wait_for(link.run(), 5)
    assert time.monotonic() - began_s < QUICK.greeting_deadline_s + SOON_S
    assert type(error) is UnavailableError
    assert error.subject == "p"
    assert link.address in error.message
    with pytest.raises(UnavailableError):
        link.send(close(1))


@pytest.mark.parametrize("how", ["server stops", "cable cut"])
async def test_a_peer_that_dies_is_noticed_at_once(how: str) -> None:
    peer = FakeStage("p", silent)
    async with stages(peer):
        cable = Cable(peer.address)
        async with cable.laid() as address:
            link = edge_link("p", address, "me", lambda _: None)
            async with dialled(link) as running:
                link.send(close(1))
                await peer.got("close")
                began_s = time.monotonic()
                if how == "cable cut":
                    cable.cut()
                else:
                    await peer.die()
                error = await asyncio.wait_for(running, 5)
                assert time.monotonic() - began_s < SOON_S
    assert type(error) is UnavailableError
    assert error.subject == "p"


async def test_every_send_after_the_loss_is_refused_with_its_reason() -> None:
    link = edge_link("p", NOWHERE, "me", lambda _: None)
    error = await link.run()
    for _ in range(3):
        with pytest.raises(UnavailableError) as caught:
            link.send(close(1))
        assert caught.value is error
        assert len(caught.traceback) == 3  # this test, Link.send, Outbox.put: it does not grow


async def test_a_cancelled_link_takes_nothing_more() -> None:
    peer = FakeStage("p", silent)
    async with stages(peer):
        link = edge_link("p", peer.address, "me", lambda _: None)
        async with dialled(link):
            link.send(close(1))
            await peer.got("close")
        with pytest.raises(UnavailableError, match="the link to p was closed"):
            link.send(close(2))


async def test_a_peer_that_does_not_keep_up_is_told_of() -> None:
    link = edge_link("p", NOWHERE, "me", lambda _: None, LinkConfig(max_queued_messages=3))
    for i in range(3):
        link.send(close(i))
    with pytest.raises(ResourceExhaustedError, match="p does not keep up") as caught:
        link.send(close(3))
    assert caught.value.subject == "p"


async def test_a_peer_that_stops_reading_fills_the_queue_and_not_the_memory() -> None:
    class Deaf(edge_pb2_grpc.EdgeServicer):
        async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
            await anext(request_iterator)
            await context.write(Message(hello=hello("p")))
            await asyncio.sleep(60)

    big = Message(frames=edge_pb2.FrameBatch(data=bytes(2**20)))
    async with servicer(Deaf()) as address:
        link = edge_link("p", address, "me", lambda _: None, LinkConfig(max_queued_messages=4))
        async with dialled(link):
            num_sent = await fill(link, big)
    assert 4 <= num_sent < 100  # queue, gRPC's and the kernel's buffers


async def fill(link: EdgeLink, message: Message) -> int:
    """Send until the queue is full; how many went."""
    for num_sent in range(1000):
        try:
            link.send(message)
        except ResourceExhaustedError:
            return num_sent
        await asyncio.sleep(0.01)
    return 1000


async def test_a_message_that_breaks_this_side_ends_its_link_alone(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception of a callback used to end every link of the pool, and the process with it."""

    def heard(peer: str, message: Message) -> None:
        if message.close.session == 13:
            raise ZeroDivisionError
        got.append((peer, message.close.session))

    got: list[tuple[str, int]] = []
    lost: list[tuple[str, OsaiError]] = []
    one, two = FakeStage("one", echo), FakeStage("two", echo)
    async with stages(one, two), LinkPool("me", heard, lambda *loss: lost.append(loss)) as pool:
        pool.wire("two", two.address).send(close(1))
        pool.wire("one", one.address).send(close(13))
        await until(lambda: bool(lost))
        pool.wire("two", two.address).send(close(2))
        await until(lambda: len(got) == 2)
        assert two.num_links == 1
    assert got == [("two", 1), ("two", 2)]
    assert [(peer, type(error)) for peer, error in lost] == [("one", InternalError)]
    assert "ZeroDivisionError" in caplog.text


async def until(condition: Any) -> None:  # noqa: ANN401 - a callable
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - links report by callback
            await asyncio.sleep(0.005)


class Pool(LinkPool):
    """A pool that keeps what it is told."""

    def __init__(self, config: LinkConfig | None = None) -> None:
        self.got: list[tuple[str, Message]] = []
        self.lost: list[tuple[str, OsaiError]] = []
        super().__init__("me", lambda *said: self.got.append(said), lambda *loss: self.lost.append(loss), config)


async def test_one_link_a_peer_and_lane() -> None:
    peer = FakeStage("p", echo)
    async with stages(peer), Pool() as pool:
        assert pool.held("p", peer.address) is None
        wire = pool.wire("p", peer.address)
        assert pool.wire("p", peer.address) is wire is pool.held("p", peer.address)
        other = pool.wire("p", peer.address, Lane.PREFILL)
        assert other is not wire
        wire.send(close(1))
        other.send(close(2))
        await peer.got("close", 2)
        await until(lambda: len(pool.got) == 2)
        assert sorted((name, message.close.session) for name, message in pool.got) == [("p", 1), ("p", 2)]
        assert peer.num_links == 2


@pytest.mark.parametrize("how", ["server stops", "cable cut"])
async def test_a_loss_is_told_once_and_the_next_wire_dials_anew(how: str) -> None:
    peer = FakeStage("p", echo)
    async with stages(peer):
        cable = Cable(peer.address)
        async with cable.laid() as address, Pool() as pool:
            wire = pool.wire("p", address)
            wire.send(close(1))
            await peer.got("close")
            if how == "cable cut":
                cable.cut()
            else:
                await peer.die()
            await until(lambda: bool(pool.lost))
            await asyncio.sleep(0.05)
            assert [(name, type(error)) for name, error in pool.lost] == [("p", UnavailableError)]
            assert pool.held("p", address) is None
            with pytest.raises(UnavailableError):
                wire.send(close(2))
            if how == "cable cut":
                pool.wire("p", address).send(close(3))
                await peer.got("close", 2)


async def test_a_peer_that_can_not_be_had_is_told_once() -> None:
    async with Pool(QUICK) as pool:
        pool.wire("p", NOWHERE).send(close(1))  # queued: whether it can go out is not known yet
        await until(lambda: bool(pool.lost))
        await asyncio.sleep(0.05)
        ((name, error),) = pool.lost
        assert (name, type(error)) == ("p", UnavailableError)


async def test_a_link_that_its_peer_refuses_later_ends_with_the_reason() -> None:
    class Refuser(edge_pb2_grpc.EdgeServicer):
        async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
            await anext(request_iterator)
            await context.write(Message(hello=hello("p")))
            await anext(request_iterator)
            await abort(context, BadFrameError("no"))

    async with servicer(Refuser()) as address, Pool() as pool:
        pool.wire("p", address).send(close(1))
        await until(lambda: bool(pool.lost))
        assert [(name, error.code, error.message) for name, error in pool.lost] == [("p", BadFrameError.code, "no")]


async def test_a_pool_that_closes_ends_its_links_and_makes_no_more() -> None:
    peer = FakeStage("p", silent)
    async with stages(peer):
        async with Pool() as pool:
            wire = pool.wire("p", peer.address)
            wire.send(close(1))
            await peer.got("close")
            pool.wire("q", NOWHERE, Lane.PREFILL)  # not even begun
        await until(lambda: not peer._outboxes)  # the peer has noticed
        with pytest.raises(UnavailableError, match="shutting down"):
            pool.wire("p", peer.address)
        with pytest.raises(UnavailableError):
            wire.send(close(2))
    assert pool.lost == []  # nobody is left to be told


async def test_a_message_over_the_limit_ends_its_link_and_not_the_next() -> None:
    """It never leaves this side, and no part of osai makes one: frames and prompts are far smaller."""
    peer = FakeStage("p", silent)
    async with stages(peer), Pool() as pool:
        pool.wire("p", peer.address).send(Message(frames=edge_pb2.FrameBatch(data=bytes(EDGE_MAX_BYTES + 1))))
        await until(lambda: bool(pool.lost))
        ((_, error),) = pool.lost
        assert isinstance(error, ResourceExhaustedError)
        assert "larger than max" in error.message
        pool.wire("p", peer.address).send(close(1))
        await peer.got("close")
        assert not peer.of("frames")
