"""One TCP port for both ways into a node: gRPC, and the bare streams of its links (osai.core.frame_stream).

A connection is told apart by its first bytes. gRPC's is spliced to the gRPC server, which listens on a socket of the
file system; a stream goes to the link that gave out its ticket.
"""

import asyncio
import logging
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, cast

import grpc.aio

from osai.core.errors import SetupError
from osai.core.frame_receiver import FrameReceiver
from osai.core.frame_stream import PREFIX, TICKET_BYTES
from osai.core.rpc import bind

log = logging.getLogger(__name__)

ANY_HOST = "0.0.0.0"  # whoever names no host means every interface
FIRST_BYTES_DEADLINE_S = 5.0  # who connects and says nothing does not hold a socket for longer
MAX_UNSENT_BYTES = 2**20  # of a spliced connection, one way


class EdgePort:
    """The port, and the tickets that are out.

    Attributes:
        port: its number.
    """

    def __init__(self, grpc_socket: str) -> None:
        self._grpc_socket = grpc_socket
        self._tickets: dict[bytes, FrameReceiver] = {}
        self._open: set[asyncio.Transport] = set()
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def listening(cls, server: grpc.aio.Server, address: str) -> AsyncIterator[Self]:
        """Listen on `address` (HOST:PORT, port 0 for a free one) for `server`, which is to be started by the caller.

        Raises:
            SetupError: if the address can't be bound.
        """
        with tempfile.TemporaryDirectory(prefix="osai-") as folder:
            socket = str(Path(folder) / "grpc")
            bind_unix(server, socket)
            it = cls(socket)
            host, _, port = address.rpartition(":")
            try:
                listener = await asyncio.get_running_loop().create_server(
                    lambda: _Door(it), host.strip("[]") or ANY_HOST, int(port)
                )
            except (OSError, ValueError, OverflowError) as e:
                raise SetupError(
                    f"can't listen on {address} ({e}): is the port in use? Choose another, or 0 for a free one"
                ) from e
            it.port = int(listener.sockets[0].getsockname()[1])
            try:
                yield it
            finally:
                listener.close()
                for transport in list(it._open):
                    transport.abort()

    def offer(self) -> tuple[bytes, FrameReceiver]:
        """A ticket for one stream, and where its messages will come."""
        ticket, receiver = secrets.token_bytes(TICKET_BYTES), FrameReceiver()
        self._tickets[ticket] = receiver
        return ticket, receiver

    def withdraw(self, ticket: bytes) -> None:
        """Take a ticket back; nothing where it has been used."""
        self._tickets.pop(ticket, None)

    def admit(self, ticket: bytes, transport: asyncio.Transport, first: bytes) -> None:
        """A stream has come with a ticket, and with the first bytes of its messages perhaps."""
        receiver = self._tickets.pop(ticket, None)
        if receiver is None:
            log.warning("refused a stream from %s: its ticket is unknown", transport.get_extra_info("peername"))
            transport.abort()
        else:
            receiver.take(transport, first)

    def opened(self, transport: asyncio.Transport) -> None:
        """Keep track of a connection, to end it with the port."""
        self._open.add(transport)

    def closed(self, transport: asyncio.Transport) -> None:
        """It has ended, or is someone else's now."""
        self._open.discard(transport)

    async def dial_grpc(self, near: "_Pipe") -> "_Pipe":
        """A connection to the gRPC server that is spliced to `near`."""
        _, far = await asyncio.get_running_loop().create_unix_connection(lambda: _Pipe(near), self._grpc_socket)
        return far


def bind_unix(server: grpc.aio.Server, socket: str) -> None:
    """Let a gRPC server listen on a socket of the file system."""
    bind(server, f"unix:{socket}")


class _Pipe(asyncio.Protocol):
    """One end of a spliced connection: what comes in here goes out at `far`, and no faster than it leaves there."""

    def __init__(self, far: "_Pipe | None" = None, on_lost: Callable[[], None] = lambda: None) -> None:
        self.far = far
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.take(cast("asyncio.Transport", transport))

    def take(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.far is not None and self.far.transport is not None:
            self.far.transport.write(data)

    def pause_writing(self) -> None:
        if self.far is not None and self.far.transport is not None:
            self.far.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.far is not None and self.far.transport is not None:
            self.far.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self._on_lost()
        if self.far is not None and self.far.transport is not None:
            self.far.transport.close()


class _Door(asyncio.Protocol):
    """A connection whose kind is not known yet."""

    def __init__(self, port: EdgePort) -> None:
        self._port = port
        self._seen = b""
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._port.opened(self._transport)
        self._deadline = asyncio.get_running_loop().call_later(FIRST_BYTES_DEADLINE_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if not PREFIX.startswith(self._seen[: len(PREFIX)]):
            self._deadline.cancel()
            self._transport.pause_reading()
            self._dialling = asyncio.ensure_future(self._splice())
        elif len(self._seen) >= len(PREFIX) + TICKET_BYTES:
            self._deadline.cancel()
            rest = self._seen[len(PREFIX) :]
            self._port.closed(self._transport)
            self._port.admit(rest[:TICKET_BYTES], self._transport, rest[TICKET_BYTES:])

    def connection_lost(self, _: Exception | None) -> None:
        self._deadline.cancel()
        self._port.closed(self._transport)

    async def _splice(self) -> None:
        near = _Pipe(on_lost=lambda: self._port.closed(self._transport))
        near.take(self._transport)  # before there is a far end: gRPC's server speaks first
        try:
            near.far = await self._port.dial_grpc(near)
        except OSError as e:
            log.warning("a connection can't be served: %s", e)
            self._transport.abort()
            return
        self._transport.set_protocol(near)
        near.data_received(self._seen)
        if self._transport.is_closing():
            near.connection_lost(None)
        else:
            self._transport.resume_reading()
