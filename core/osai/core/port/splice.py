"""Connections that are passed on to another server of this process: what comes in here goes out there."""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

log = logging.getLogger(__name__)

MAX_UNSENT_BYTES = 2**20  # of a spliced connection, one way


class Pipe(asyncio.Protocol):
    """One end of a spliced connection: what comes in here goes out at `far`, and no faster than it leaves there."""

    def __init__(self, far: "Pipe | None" = None, on_lost: Callable[[], None] = lambda: None) -> None:
        self.far = far
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.take(cast("asyncio.Transport", transport))

    def take(self, transport: asyncio.Transport) -> None:
        """Write to `transport` what comes in at the far end."""
        self.transport = transport
        transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.far is not None and self.far.transport is not None:
            self.far.transport.write(data)

    def pause_writing(self) -> None:
        """This end does not keep up: read less at the other one."""
        if self.far is not None and self.far.transport is not None:
            self.far.transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        if self.far is not None and self.far.transport is not None:
            self.far.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        """The other end goes too."""
        self.transport = None
        self._on_lost()
        if self.far is not None and self.far.transport is not None:
            self.far.transport.close()


async def splice(transport: asyncio.Transport, seen: bytes, socket: str, on_lost: Callable[[], None]) -> None:
    """Join a connection, of which `seen` has come already, to the server at a socket of the file system.

    Args:
        transport: paused by the caller.
        seen: its first bytes.
        socket: path of the other server's.
        on_lost: called when the connection has ended.
    """
    near = Pipe(on_lost=on_lost)
    near.take(transport)  # before there is a far end: gRPC's server speaks first
    try:
        _, near.far = await asyncio.get_running_loop().create_unix_connection(lambda: Pipe(near), socket)
    except OSError as e:
        log.warning("a connection can't be served: %s", e)
        transport.abort()
        return
    transport.set_protocol(near)
    near.data_received(seen)
    if transport.is_closing():
        near.connection_lost(None)
    else:
        transport.resume_reading()
