"""One TCP port for both ways into a node: gRPC, and the bare streams of its links (osai.core.frame_stream).

A connection is told apart by its first bytes. gRPC's is spliced to the gRPC server, which listens on a socket of the
file system; a stream goes to the link that gave out its ticket.
"""

import asyncio
import contextlib
import logging
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, cast

import grpc.aio

from osai.core.errors import OsaiError, ProtocolMismatchError, TrustError, UnavailableError
from osai.core.frame_receiver import FrameReceiver
from osai.core.frame_stream import PREFIX, PREFIX_TLS, READY, TICKET_BYTES
from osai.core.member_tls import MemberTls
from osai.core.port.client_hello import private_hello
from osai.core.port.port import Connection, Handler, Port, spliced_to
from osai.core.rpc import bind

log = logging.getLogger(__name__)

TLS_DEADLINE_S = 5.0  # of a stream's handshake, and until its ticket comes
_WHOLE = len(PREFIX) + TICKET_BYTES


class EdgePort:
    """The port, and the tickets that are out.

    Args:
        grpc_socket: where the gRPC server listens.
        tls: of this member; None in a public swarm.

    Attributes:
        port: its number.
    """

    def __init__(self, grpc_socket: str, tls: MemberTls | None) -> None:
        self._grpc = spliced_to(grpc_socket)
        self._tls = tls
        self._tickets: dict[bytes, tuple[FrameReceiver, str]] = {}
        self._listener: Port | None = None
        self.port = 0

    @property
    def num_open(self) -> int:
        """Connections that it holds; streams that have their link are the link's."""
        return self._listener.num_open if self._listener else 0

    @classmethod
    @asynccontextmanager
    async def listening(
        cls, server: grpc.aio.Server, address: str, tls: MemberTls | None = None
    ) -> AsyncIterator[Self]:
        """Listen on `address` (HOST:PORT, port 0 for a free one) for `server`, which is to be started by the caller.

        Raises:
            SetupError: if the address can't be bound.
        """
        with tempfile.TemporaryDirectory(prefix="osai-") as folder:
            socket = str(Path(folder) / "grpc")
            bind(server, f"unix:{socket}", tls.server_credentials() if tls else None)
            it = cls(socket, tls)
            async with Port.listening(address, it.classify) as port:
                it._listener, it.port = port, port.number
                yield it

    def offer(self, member_id: str = "") -> tuple[bytes, FrameReceiver]:
        """A ticket for one stream of a peer, and where its messages will come."""
        ticket, receiver = secrets.token_bytes(TICKET_BYTES), FrameReceiver()
        self._tickets[ticket] = receiver, member_id
        return ticket, receiver

    def withdraw(self, ticket: bytes) -> None:
        """Take a ticket back; nothing where it has been used."""
        self._tickets.pop(ticket, None)

    def classify(self, seen: bytes) -> Handler | None:
        """Who takes a connection that begins so; see osai.core.port.port.

        Raises:
            PeerError: if it is none that this port serves.
        """
        if self._tls is None:
            if PREFIX.startswith(seen[: len(PREFIX)]):
                return self._admit if len(seen) >= _WHOLE else None
            return self._grpc
        if PREFIX_TLS.startswith(seen[: len(PREFIX_TLS)]):
            return self._secure if len(seen) >= len(PREFIX_TLS) else None
        return self._grpc if private_hello(seen) is not None else None

    async def _admit(self, connection: Connection) -> None:
        rest = connection.seen[len(PREFIX) :]
        connection.release()
        connection.transport.resume_reading()
        self._hand_over(rest[:TICKET_BYTES], connection.transport, rest[TICKET_BYTES:], "")

    async def _secure(self, connection: Connection) -> None:
        """Turn to TLS, read the ticket inside, and let in the one that it was given to."""
        tls = cast("MemberTls", self._tls)
        if connection.seen != PREFIX_TLS:
            raise ProtocolMismatchError("a stream's dialler must wait until TLS begins")
        ticket = _Ticket()
        connection.transport.write(READY)
        try:
            async with asyncio.timeout(TLS_DEADLINE_S):
                transport = await _started(connection.transport, ticket, tls)
                member_id = tls.peer_of(_certificate(transport)).member_id
                await ticket.come()
        except TimeoutError as e:
            raise UnavailableError(f"a stream did not turn to TLS within {TLS_DEADLINE_S:g} s") from e
        connection.release()
        first = ticket.seen  # messages may have come since, and come to the receiver from here on
        if not first.startswith(PREFIX):
            raise ProtocolMismatchError("a stream must begin with its ticket")
        self._hand_over(first[len(PREFIX) : _WHOLE], transport, first[_WHOLE:], member_id)

    def _hand_over(self, ticket: bytes, transport: asyncio.Transport, first: bytes, member_id: str) -> None:
        """A stream has come with a ticket, and with the first bytes of its messages perhaps."""
        receiver, expected = self._tickets.get(ticket, (None, ""))
        if receiver is None or expected != member_id:
            log.warning("refused a stream from %s: its ticket is unknown", transport.get_extra_info("peername"))
            transport.abort()
        else:
            self.withdraw(ticket)
            receiver.take(transport, first)


async def _started(transport: asyncio.Transport, ticket: "_Ticket", tls: MemberTls) -> asyncio.Transport:
    try:
        started = await asyncio.get_running_loop().start_tls(
            transport, ticket, tls.context(is_server=True), server_side=True
        )
    except OSError as e:  # ssl.SSLError is one
        raise TrustError(f"a stream's TLS handshake failed: {e}") from e
    if started is None:
        raise UnavailableError("the connection was lost during the TLS handshake")
    return started


def _certificate(transport: asyncio.Transport) -> bytes:
    with contextlib.suppress(AttributeError):
        return bytes(transport.get_extra_info("ssl_object").getpeercert(binary_form=True) or b"")
    return b""


class _Ticket(asyncio.Protocol):
    """Reads a stream's first bytes, inside TLS.

    Attributes:
        seen: what has come so far.
    """

    def __init__(self) -> None:
        self.seen = b""
        self._over: OsaiError | None = None
        self._news = asyncio.Event()

    async def come(self) -> None:
        """Return once the ticket is whole.

        Raises:
            ProtocolMismatchError: if it is something else.
            UnavailableError: if the dialler has gone.
        """
        while len(self.seen) < _WHOLE:
            if self._over is not None:
                raise self._over
            if not PREFIX.startswith(self.seen[: len(PREFIX)]):
                raise ProtocolMismatchError("a stream must begin with its ticket")
            self._news.clear()
            await self._news.wait()

    def data_received(self, data: bytes) -> None:
        self.seen += data
        self._news.set()

    def connection_lost(self, _: Exception | None) -> None:
        self._over = UnavailableError("the stream's dialler has gone")
        self._news.set()
