"""HTTP/2 by hand, for calls that no gRPC library would make."""

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
MAX_FRAME_BYTES = 16_384
Headers = Sequence[tuple[str, str]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def grpc_headers(method: str, *more: tuple[str, str]) -> bytes:
    """A call's headers, without HPACK's tables."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "x"), ("te", "trailers"),
              ("content-type", "application/grpc"), *more]  # fmt: skip
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: str) -> bytes:
    data, most = text.encode(), 0x7F
    if len(data) < most:
        return bytes([len(data)]) + data
    rest, out = len(data) - most, bytearray([most])
    while rest > most:
        out.append(rest & most | 0x80)
        rest >>= 7
    return bytes([*out, rest]) + data


def grpc_message(data: bytes, *, compressed: bool = False) -> bytes:
    """A message as a call's stream carries it."""
    return bytes([compressed]) + len(data).to_bytes(4) + data


def gzip_bomb(num_bytes: int) -> bytes:
    """So many zeros, as gzip has them; made of one piece that is repeated."""
    piece = bytes(2**24)
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = squeezed.compress(piece) + squeezed.flush(zlib.Z_FULL_FLUSH)
    count, check = num_bytes // len(piece), 0
    for _ in range(count):
        check = zlib.crc32(piece, check)
    header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return header + block * count + b"\x03\0" + struct.pack("<II", check, (count * len(piece)) % 2**32)


class Connection:
    """One connection, after both sides' settings.

    Attributes:
        frames: that have come: kind, flags, stream, payload.
        is_over: the server has ended it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.is_over = False
        self._window = {0: 65_535}
        self._news = asyncio.Condition()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)

    def call(self, stream: int, method: str, *more: tuple[str, str]) -> None:
        """Begin a call."""
        block = grpc_headers(method, *more)
        first, *rest = _pieces(block)
        self.send(frame(HEADERS, 0 if rest else END_HEADERS, stream, first))
        for i, piece in enumerate(rest, 1):
            self.send(frame(9, END_HEADERS if i == len(rest) else 0, stream, piece))  # continuation

    async def data(self, stream: int, data: bytes) -> bool:
        """Send a stream's data as the server lets it; False if that has ended the stream."""
        self._window.setdefault(stream, 65_535)
        for piece in _pieces(data):
            async with self._news:
                while not self.ended(stream) and min(self._window[0], self._window[stream]) < len(piece):
                    await self._news.wait()
            if self.ended(stream):
                return False
            self._window[0] -= len(piece)
            self._window[stream] -= len(piece)
            self.send(frame(DATA, 0, stream, piece))
        return True

    def ended(self, stream: int) -> bool:
        """Whether the server has ended a stream, or everything."""
        return self.is_over or any(
            at == stream and (kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM))
            for kind, flags, at, _ in self.frames
        )

    async def until_ended(self, stream: int) -> bytes:
        """What the server has said in headers, once a stream has ended."""
        async with self._news:
            await self._news.wait_for(lambda: self.ended(stream))
        return b"".join(payload for kind, _, at, payload in self.frames if kind == HEADERS and at == stream)

    async def run(self) -> None:
        """Read until the server ends the connection."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                await self._came(head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF, payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            async with self._news:
                self.is_over = True
                self._news.notify_all()

    async def _came(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        if kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        async with self._news:
            self.frames.append((kind, flags, stream, payload))
            if kind == WINDOW_UPDATE:
                self._window[stream] = self._window.get(stream, 65_535) + int.from_bytes(payload)
            self._news.notify_all()


def _pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, max(len(data), 1), MAX_FRAME_BYTES):
        yield data[at : at + MAX_FRAME_BYTES]


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Connection]:
    """A connection that has said what HTTP/2 begins with."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    it = Connection(reader, writer)
    it.send(PREFACE + frame(SETTINGS, 0, 0))
    running = asyncio.create_task(it.run())
    try:
        yield it
    finally:
        running.cancel()
        await asyncio.wait([running])
        writer.transport.abort()
