"""The server's side of a link's bare TCP stream; osai.core.frame_stream says what it is."""

import asyncio
from collections import deque

from google.protobuf.message import DecodeError

from osai.core.errors import BadFrameError, OsaiError, ResourceExhaustedError, UnavailableError
from osai.core.frame_stream import LENGTH_BYTES
from osai.core.rpc import EDGE_MAX_BYTES
from osai.proto import edge_pb2

MAX_UNREAD_MESSAGES = 64  # parsed and not handled yet; then the peer is not read from


class FrameReceiver(asyncio.Protocol):
    """The server's side, from its first message on: `next` gives them in order.

    It does not see connection_made: whoever read the ticket hands it the transport by `take`.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._unparsed = bytearray()
        self._messages: deque[edge_pb2.LinkMessage] = deque()
        self._news = asyncio.Event()
        self._end: OsaiError | None = None
        self._paused = False

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
                del self._unparsed[: self._parse(self._unparsed)]
            else:  # mostly whole messages: not copied together first
                self._unparsed += data[self._parse(data) :]
        except OsaiError as e:
            self._fail(e)
            return
        if self._messages:
            self._news.set()
        if len(self._messages) > MAX_UNREAD_MESSAGES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, _: Exception | None) -> None:
        """The dialler has ended it."""
        self._fail(UnavailableError("the peer ended the link's stream"))

    async def next(self) -> edge_pb2.LinkMessage:
        """The next message.

        Raises:
            UnavailableError: if the dialler has ended the stream.
            ResourceExhaustedError: if a message is larger than a link takes.
            BadFrameError: if it is no message.
        """
        while not self._messages:
            if self._end is not None:
                raise self._end
            self._news.clear()
            await self._news.wait()
        if self._paused and len(self._messages) <= MAX_UNREAD_MESSAGES // 2 and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return self._messages.popleft()

    def close(self) -> None:
        """End the stream."""
        self._fail(UnavailableError("the link was closed"))

    def _fail(self, reason: OsaiError) -> None:
        self._end = self._end or reason
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
    try:
        return edge_pb2.LinkMessage.FromString(data)
    except DecodeError as e:
        raise BadFrameError("what came on the link's stream is no message") from e
