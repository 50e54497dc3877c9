"""The bare stream's parsing: whatever the pieces, the same messages come out, in order; what is none ends it."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.errors import BadFrameError, ResourceExhaustedError, UnavailableError
from osai.core.frame_receiver import MAX_UNREAD_MESSAGES, FrameReceiver
from osai.core.frame_stream import LENGTH_BYTES, FrameSender
from osai.core.outbox import Outbox
from osai.core.rpc import EDGE_MAX_BYTES
from osai.proto import edge_pb2

Message = edge_pb2.LinkMessage


class Wires(asyncio.Transport):
    """A transport that keeps what is written, and says what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.calls: list[str] = []

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.calls.append("set_protocol")

    def write(self, data: Any) -> None:  # noqa: ANN401
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return "abort" in self.calls

    def abort(self) -> None:
        self.calls.append("abort")

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def message(size: int) -> Message:
    return Message(frames=edge_pb2.FrameBatch(data=bytes(size)))


def packed(*messages: Message) -> bytes:
    bodies = [m.SerializeToString() for m in messages]
    return b"".join(len(body).to_bytes(LENGTH_BYTES, "little") + body for body in bodies)


def receiver() -> tuple[FrameReceiver, Wires]:
    it, wires = FrameReceiver(), Wires()
    it.take(wires, b"")
    return it, wires


@given(st.lists(st.integers(0, 300), max_size=12), st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_any_pieces_give_the_same_messages(sizes: list[int], pieces: list[int]) -> None:
    async def run() -> None:
        it, _ = receiver()
        sent = [message(size) for size in sizes]
        data, at, i = packed(*sent), 0, 0
        while at < len(data):
            it.data_received(data[at : at + pieces[i % len(pieces)]])
            at, i = at + pieces[i % len(pieces)], i + 1
        assert [await asyncio.wait_for(it.next(), 1) for _ in sent] == sent
        assert not it._unparsed

    asyncio.run(run())


@pytest.mark.parametrize(
    ("junk", "error"),
    [
        (b"\x03\x00\x00\x00\xff\xff\xff", BadFrameError),
        ((EDGE_MAX_BYTES + 1).to_bytes(LENGTH_BYTES, "little"), ResourceExhaustedError),
    ],
)
async def test_what_came_before_junk_is_given_first(junk: bytes, error: type[Exception]) -> None:
    it, wires = receiver()
    it.data_received(packed(message(1)) + junk)
    assert await it.next() == message(1)
    with pytest.raises(error):
        await it.next()
    assert "abort" in wires.calls


async def test_a_stream_that_ends_ends_whoever_waits_on_it() -> None:
    it, _ = receiver()
    waiting = asyncio.create_task(it.next())
    await asyncio.sleep(0)
    it.connection_lost(None)
    with pytest.raises(UnavailableError):
        await waiting


async def test_a_peer_is_not_read_from_while_much_is_unread() -> None:
    it, wires = receiver()
    it.data_received(packed(*[message(1)] * (MAX_UNREAD_MESSAGES + 1)))
    assert wires.calls[-1] == "pause"
    for _ in range(MAX_UNREAD_MESSAGES + 1):
        await it.next()
    assert wires.calls.count("pause") == wires.calls.count("resume") == 1


async def test_a_receiver_that_was_closed_takes_no_stream() -> None:
    it, wires = FrameReceiver(), Wires()
    it.close()
    it.take(wires, packed(message(1)))
    assert wires.calls[-1] == "abort"
    with pytest.raises(UnavailableError):
        await it.next()


async def test_a_sender_that_is_told_to_pause_leaves_messages_in_the_queue() -> None:
    sender: FrameSender[Message] = FrameSender(b"ticket")
    wires, outbox = Wires(), Outbox[Message]("p", 10)
    sender.connection_made(wires)
    writing = asyncio.create_task(sender.write(outbox))
    outbox.put(message(1))
    await asyncio.sleep(0.01)
    assert wires.written.endswith(packed(message(1)))
    sender.pause_writing()
    outbox.put(message(2))
    outbox.put(message(3))
    await asyncio.sleep(0.01)
    assert wires.written.endswith(packed(message(1)))
    assert not sender.ready
    assert not outbox.empty
    sender.resume_writing()
    await asyncio.sleep(0.01)
    assert wires.written.endswith(packed(message(1), message(2), message(3)))
    sender.connection_lost(None)
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(writing, 1)
    with pytest.raises(UnavailableError):
        sender.send(message(4))


async def test_an_outbox_gives_in_order_and_counts_what_was_not_taken() -> None:
    outbox = Outbox[int]("p", 2)
    waiting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    outbox.put(1)
    outbox.put(2)
    with pytest.raises(ResourceExhaustedError):
        outbox.put(3)
    assert [await waiting, await outbox.get(), outbox.empty, outbox.idle] == [1, 2, True, True]
    cancelled = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    outbox.put(4)
    assert await outbox.get() == 4  # nothing went to whoever was cancelled
    outbox.close(UnavailableError("gone"))
    assert not outbox.idle
