"""The port itself: connections are told apart by their first bytes, and handed on.

The B numbers are clauses of docs/security.md.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

from osai.core.errors import OsaiError, SetupError
from osai.core.port.splice import splice

log = logging.getLogger(__name__)

ANY_HOST = "0.0.0.0"  # whoever names no host means every interface
FIRST_BYTES_DEADLINE_S = 5.0  # who connects and says nothing does not hold a socket for longer
MAX_UNDECIDED = 512  # connections that have not said yet what they are; each has sent at most a TLS hello
MAX_OPEN = 32_768  # connections in all: a coordinator's nodes, and its clients


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One that is handed on, paused; the handler makes it its own.

    Attributes:
        seen: its first bytes.
        release: to be called when it has ended, or is somebody else's to end.
    """

    transport: asyncio.Transport
    seen: bytes
    release: Callable[[], None]


Handler = Callable[[Connection], Coroutine[Any, Any, None]]
Classify = Callable[[bytes], Handler | None]
"""From the first bytes: who takes the connection; None where more must come. It raises OsaiError to refuse it."""


class Port:
    """A listening port.

    Attributes:
        number: of it.
    """

    def __init__(self, classify: Classify) -> None:
        self._classify = classify
        self._open: set[asyncio.Transport] = set()
        self._handing: set[asyncio.Task[None]] = set()
        self._undecided: dict[_Door, None] = {}  # the oldest first
        self.number = 0

    @classmethod
    @asynccontextmanager
    async def listening(cls, address: str, classify: Classify) -> AsyncIterator[Self]:
        """Listen on `address` (HOST:PORT, port 0 for a free one).

        Raises:
            SetupError: if the address can't be bound.
        """
        it = cls(classify)
        host, _, port = address.rpartition(":")
        try:
            listener = await asyncio.get_running_loop().create_server(
                lambda: _Door(it), host.strip("[]") or ANY_HOST, int(port)
            )
        except (OSError, ValueError, OverflowError) as e:
            raise SetupError(
                f"can't listen on {address} ({e}): is the port in use? Choose another, or 0 for a free one"
            ) from e
        it.number = int(listener.sockets[0].getsockname()[1])
        try:
            yield it
        finally:
            listener.close()
            for transport in list(it._open):
                transport.abort()
            await asyncio.gather(*it._handing, return_exceptions=True)

    @property
    def num_open(self) -> int:
        """Connections that have not been released."""
        return len(self._open)

    @property
    def num_undecided(self) -> int:
        """Connections that have not said yet what they are."""
        return len(self._undecided)

    def opened(self, door: "_Door", transport: asyncio.Transport) -> None:
        """Keep track of a connection, to end it with the port; where there are too many, others end (B6).

        Of those that have not said what they are the oldest goes: honest ones say it at once.
        """
        self._open.add(transport)
        self._undecided[door] = None
        if len(self._open) > MAX_OPEN:
            log.warning("refused a connection: %d others are open", MAX_OPEN)
            door.end()
        elif len(self._undecided) > MAX_UNDECIDED:
            log.warning("ended a connection: %d others have not said yet what they are", MAX_UNDECIDED)
            next(iter(self._undecided)).end()

    def decided(self, door: "_Door") -> None:
        """A connection has said what it is, or has ended."""
        self._undecided.pop(door, None)

    def released(self, transport: asyncio.Transport) -> None:
        """It has ended, or is someone else's now."""
        self._open.discard(transport)

    def decide(self, seen: bytes) -> Handler | None:
        """See Classify."""
        return self._classify(seen)

    def hand(self, handler: Handler, transport: asyncio.Transport, seen: bytes) -> None:
        """Give a connection to who takes it."""
        connection = Connection(transport=transport, seen=seen, release=lambda: self.released(transport))
        task = asyncio.get_running_loop().create_task(_handed(handler, connection))
        self._handing.add(task)
        task.add_done_callback(self._handing.discard)


def spliced_to(socket: str) -> Handler:
    """Connections go on to the server at a socket of the file system."""

    async def handler(connection: Connection) -> None:
        await splice(connection.transport, connection.seen, socket, connection.release)

    return handler


async def _handed(handler: Handler, connection: Connection) -> None:
    try:
        await handler(connection)
    except OsaiError as e:
        log.warning("ended a connection from %s: %s", connection.transport.get_extra_info("peername"), e)
        _end(connection)
    except Exception:
        log.exception("a connection from %s failed", connection.transport.get_extra_info("peername"))
        _end(connection)


def _end(connection: Connection) -> None:
    connection.transport.abort()
    connection.release()  # its protocol may be another's by now, which tells nobody here


class _Door(asyncio.Protocol):
    """A connection whose kind is not known yet."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(FIRST_BYTES_DEADLINE_S, self._transport.abort)
        self._port.opened(self, self._transport)

    def end(self) -> None:
        """It has taken too long, or there are too many."""
        self._decided()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._seen += data
        try:
            handler = self._port.decide(self._seen)
        except OsaiError as e:
            log.warning("refused a connection from %s: %s", self._transport.get_extra_info("peername"), e)
            self._transport.abort()
            return
        if handler is not None:
            self._decided()
            self._transport.pause_reading()
            self._port.hand(handler, self._transport, self._seen)

    def connection_lost(self, _: Exception | None) -> None:
        self._decided()
        self._port.released(self._transport)

    def _decided(self) -> None:
        self._deadline.cancel()
        self._port.decided(self)
