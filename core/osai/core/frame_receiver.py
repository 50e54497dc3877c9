"""The server's side of a link's bare TCP stream; osai.core.frame_stream says what it is.

The B numbers are clauses of docs/security.md.
"""

import asyncio
from collections import deque

from google.protobuf.message import DecodeError

from osai.core.bulk import check_bulk
from osai.core.errors import (
    BadFrameError,
    DeadlineExceededError,
    OsaiError,
    ResourceExhaustedError,
    UnavailableError,
)
from osai.core.frame_stream import LENGTH_BYTES
from osai.core.rpc import EDGE_MAX_BYTES
from osai.proto import edge_pb2

MAX_UNREAD_MESSAGES = 64  # parsed and not handled yet; then the peer is not read from
MAX_UNREAD_BYTES = EDGE_MAX_BYTES  # of these: 64 of the largest would be 4 GiB
MESSAGE_DEADLINE_S = 120.0  # from a message's first part to its last: the largest takes as long at half a MiB a second


class FrameReceiver(asyncio.Protocol):
    """The server's side, from its first message on: `next` gives them in order.

    It does not see connection_made: whoever read the ticket hands it the transport by `take`.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._unparsed = bytearray()
        self._messages: deque[edge_pb2.LinkMessage] = deque()
        self._news = asyncio.Event()
        self._num_unread_bytes = 0  # that have come since nothing waited
        self._end: OsaiError | None = None
        self._paused = False
        self._late: asyncio.TimerHandle | None = None  # while part of a message is here

    def take(self, transport: asyncio.Transport, first: bytes) -> None:
        """Read from `transport` from now on; `first` has come already."""
        self._transport = transport
        transport.set_protocol(self)
        if self._end is not None:  # closed before its dialler came
            transport.abort()
        elif first:
            self.data_received(first)

    def data_received(self, data: bytes) -> None:
        """Part of a message has come, or several."""
        try:
            if self._unparsed:
                self._unparsed += data
                num_parsed = self._parse(self._unparsed)
                del self._unparsed[:num_parsed]
            else:  # mostly whole messages: not copied together first
                num_parsed = self._parse(data)
                self._unparsed += data[num_parsed:]
        except OsaiError as e:
            self._fail(e)
            return
        self._num_unread_bytes += num_parsed
        self._watch(is_next=num_parsed > 0)
        if self._messages:
            self._news.set()
        is_much = len(self._messages) > MAX_UNREAD_MESSAGES or self._num_unread_bytes > MAX_UNREAD_BYTES
        if is_much and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, _: Exception | None) -> None:
        """The dialler has ended it."""
        self._fail(UnavailableError("the peer ended the link's stream"))

    async def next(self) -> edge_pb2.LinkMessage:
        """The next message.

        Raises:
            UnavailableError: if the dialler has ended the stream.
            DeadlineExceededError: if a message has begun to come, and does not end.
            ResourceExhaustedError: if a message is larger than a link takes.
            PeerError: if it is no message, or would swell (B3).
        """
        while not self._messages:
            if self._end is not None:
                raise self._end
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        if not self._messages:
            self._num_unread_bytes = 0
        is_little = len(self._messages) < MAX_UNREAD_MESSAGES // 2 and self._num_unread_bytes <= MAX_UNREAD_BYTES
        if self._paused and is_little and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return message

    def close(self) -> None:
        """End the stream."""
        self._fail(UnavailableError("the link was closed"))

    def _watch(self, *, is_next: bool) -> None:
        """Give a message that has begun to come its time (B6); `is_next`: another one than before."""
        if self._late is not None and (is_next or not self._unparsed):
            self._late.cancel()
            self._late = None
        if self._late is None and self._unparsed:
            self._late = asyncio.get_running_loop().call_later(MESSAGE_DEADLINE_S, self._is_late)

    def _is_late(self) -> None:
        self._late = None
        if self._paused:  # it is this side that does not read
            self._watch(is_next=True)
        else:
            self._fail(DeadlineExceededError(f"a message did not come whole within {MESSAGE_DEADLINE_S:.0f} s"))

    def _fail(self, reason: OsaiError) -> None:
        self._end = self._end or reason
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._news.set()
        if self._transport is not None:
            self._transport.abort()

    def _parse(self, data: bytes | bytearray) -> int:
        """Parse all messages that are whole; where the first one that is not begins."""
        at = 0
        with memoryview(data) as view:
            while len(view) - at >= LENGTH_BYTES:
                start = at + LENGTH_BYTES
                length = int.from_bytes(view[at:start], "little")
                if length > EDGE_MAX_BYTES:
                    raise ResourceExhaustedError(
                        f"a message of {length} bytes is over a link's limit of {EDGE_MAX_BYTES}"
                    )
                if len(view) - start < length:
                    break
                at = start + length
                self._messages.append(_message(bytes(view[start:at])))
        return at


def _message(data: bytes) -> edge_pb2.LinkMessage:
    check_bulk(data, edge_pb2.LinkMessage.DESCRIPTOR)
    try:
        return edge_pb2.LinkMessage.FromString(data)
    except DecodeError as e:
        raise BadFrameError("what came on the link's stream is no message") from e
