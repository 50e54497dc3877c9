"""A link's bare TCP stream: what its dialling side sends once both have greeted, at a fifth of gRPC's time a message.

The link's gRPC call stays: greeting, answers, keepalive and typed errors are its business, and the two end together.
The server offers the stream in the call's metadata, as a ticket that is good once; the dialler connects to the server's
own port a second time and begins with PREFIX and the ticket. Then come messages, each after its length.

In a private swarm it begins with PREFIX_TLS; when the server has answered with READY, both turn to TLS, each shows its
certificate, and PREFIX and the rest go inside.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from osai.core.errors import ResourceExhaustedError, UnavailableError
from osai.core.outbox import Outbox
from osai.core.rpc import EDGE_MAX_BYTES

OFFER_METADATA_KEY = "osai-stream-bin"
PREFIX = b"osai stream 1\n"
PREFIX_TLS = b"osai stream 1 tls\n"
READY = b"\n"
TICKET_BYTES = 16
LENGTH_BYTES = 4  # little-endian, unsigned
MAX_UNSENT_BYTES = 2**20  # handed to the kernel's care and not taken yet: one prefill chunk; what follows is queued


class StreamMessage(Protocol):
    """What a stream carries: a protobuf message."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Its bytes."""
        ...


SentT = TypeVar("SentT", bound=StreamMessage)


class FrameSender(asyncio.Protocol, Generic[SentT]):
    """The dialling side; what comes back on the stream is ignored.

    Attributes:
        lost: done when the stream has ended.

    Args:
        ticket: the server's offer.
    """

    def __init__(self, ticket: bytes) -> None:
        self._ticket = ticket
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def ready(self) -> bool:
        """Whether a message would go out at once."""
        return self._writable.is_set() and self._transport is not None and not self._transport.is_closing()

    async def write(self, outbox: Outbox[SentT]) -> None:
        """Send what could not go at once and waits in `outbox`, until the stream ends.

        Raises:
            UnavailableError: when it has ended.
            ResourceExhaustedError: if a message is larger than a link takes.
        """
        while not self.lost.done():
            filled = asyncio.ensure_future(outbox.filled())
            try:
                await asyncio.wait((filled, self.lost), return_when=asyncio.FIRST_COMPLETED)
            finally:
                filled.cancel()
            await self._writable.wait()
            while self.ready and not outbox.empty:
                self.send(outbox.pop())  # it leaves the queue when it is written: nothing overtakes it
        raise UnavailableError("the link's stream was lost")

    def send(self, message: SentT) -> None:
        """Send a message.

        Raises:
            ResourceExhaustedError: if it is larger than a link takes.
            UnavailableError: if the stream has ended.
        """
        data = message.SerializeToString()
        if len(data) > EDGE_MAX_BYTES:
            raise ResourceExhaustedError(f"a message of {len(data)} bytes is over a link's limit of {EDGE_MAX_BYTES}")
        if self._transport is None or self.lost.done():
            raise UnavailableError("the link's stream has ended")
        self._transport.writelines((len(data).to_bytes(LENGTH_BYTES, "little"), data))

    def close(self) -> None:
        """End the stream; what has not gone out is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected. The loop has set TCP_NODELAY."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has its methods, not its type
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        self._transport.write(PREFIX + self._ticket)
        self._writable.set()

    def pause_writing(self) -> None:
        """The peer does not keep up."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable.set()

    def connection_lost(self, _: Exception | None) -> None:
        """The stream has ended."""
        self._writable.set()  # whoever waits learns of it by sending
        if not self.lost.done():
            self.lost.set_result(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTls:
    """How a stream is dialled in a private swarm.

    Attributes:
        context: with this member's certificate.
        server_name: that the server's certificate must have.
    """

    context: ssl.SSLContext
    server_name: str


async def dial_stream(
    address: str, sender: FrameSender[SentT], deadline_s: float, tls: StreamTls | None = None
) -> None:
    """Connect to a link's server, and let `sender` hand in its ticket.

    Raises:
        UnavailableError: if it can't be had in time, or the server's certificate is another's.
    """
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(deadline_s):
            if tls is None:
                await loop.create_connection(lambda: sender, host.strip("[]"), int(port))
                return
            _, plain = await loop.create_connection(_Asking, host.strip("[]"), int(port))
            transport = await _secured(plain, sender, tls)
    except (OSError, ValueError, TimeoutError) as e:  # ssl.SSLError is an OSError
        raise UnavailableError(f"no stream to {address} ({e})") from e
    sender.connection_made(transport)


async def _secured(asking: "_Asking", sender: FrameSender[SentT], tls: StreamTls) -> asyncio.BaseTransport:
    try:
        await asking.ready
        transport = await asyncio.get_running_loop().start_tls(
            asking.transport, sender, tls.context, server_hostname=tls.server_name
        )
    except BaseException:
        asking.transport.abort()
        raise
    if transport is None:
        raise UnavailableError("the connection was lost during the TLS handshake")
    return transport


class _Asking(asyncio.Protocol):
    """Asks for TLS; `ready` is done when the server is."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(PREFIX_TLS)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            if data == READY:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(ValueError("the server does not answer as an osai node does"))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError("the server ended the connection"))
