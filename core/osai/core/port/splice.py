"""Connections that are passed on to another server of this process: what comes in here goes out there."""

import asyncio
import contextlib
import logging
import secrets
import socket as sockets
from collections.abc import Callable
from typing import cast

from osai.core.port.callers import spliced_name

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
        own = await _connected(socket, transport)
        _, near.far = await asyncio.get_running_loop().create_unix_connection(lambda: Pipe(near), sock=own)
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


async def _connected(socket: str, transport: asyncio.Transport) -> sockets.socket:
    """A connection to a socket of the file system, named after who is at the other end of `transport`."""
    own = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        own.setblocking(False)
        peer = transport.get_extra_info("peername") or ("",)
        with contextlib.suppress(OSError):  # no abstract names here, or it is over: then it is nobody's
            own.bind(spliced_name(secrets.token_hex(8), str(peer[0])))
        await asyncio.get_running_loop().sock_connect(own, socket)
    except BaseException:
        own.close()
        raise
    return own
