"""The dialling side of a long-lived stream to one peer: an edge of the ring, or a node's control stream.

Both begin with a hello each way; after it messages flow in both directions until either side ends the stream.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

import grpc

from osai.core.errors import InternalError, OsaiError, ResourceExhaustedError, UnavailableError
from osai.core.protocol import check_hello, hello
from osai.core.rpc import EDGE_MAX_BYTES, error_of, insecure_channel
from osai.proto import common_pb2, control_pb2, control_pb2_grpc, edge_pb2, edge_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import StreamStreamCall

log = logging.getLogger(__name__)

SentT = TypeVar("SentT")
ReceivedT = TypeVar("ReceivedT")
QueuedT = TypeVar("QueuedT")
WiredT_contra = TypeVar("WiredT_contra", contravariant=True)


class Wire(Protocol[WiredT_contra]):
    """Something that carries messages to one peer, in order."""

    def send(self, message: WiredT_contra) -> None:
        """Queue a message; never blocks.

        Raises:
            UnavailableError: if the link is down.
            ResourceExhaustedError: if the peer does not keep up.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Bounds of a link.

    Attributes:
        greeting_deadline_s: from dialling to the peer's hello; three round trips of a slow link and a busy peer.
        max_queued_messages: a peer that is this far behind is as good as lost; decode needs one a session.
    """

    greeting_deadline_s: float = 5.0
    max_queued_messages: int = 4096


class Outbox(Generic[QueuedT]):
    """Messages that wait to be written to a peer."""

    def __init__(self, peer: str, max_queued_messages: int) -> None:
        self._peer = peer
        self._queue: asyncio.Queue[QueuedT] = asyncio.Queue(max_queued_messages)
        self._closed: OsaiError | None = None

    def put(self, message: QueuedT) -> None:
        """Queue a message.

        Raises:
            UnavailableError: if the link is down.
            ResourceExhaustedError: if the peer does not keep up.
        """
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # one error for many callers: it must not grow with each
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull as e:
            raise ResourceExhaustedError(f"{self._peer} does not keep up with its link", subject=self._peer) from e

    def close(self, reason: OsaiError) -> None:
        """Refuse what comes from now on with `reason`."""
        self._closed = reason

    async def get(self) -> QueuedT:
        """The next message to write."""
        return await self._queue.get()


class Link(Generic[SentT, ReceivedT]):
    """A stream to one peer. `run` holds it open; it ends when either side does, and is not dialled again.

    Args:
        peer: the peer's id, for messages.
        address: HOST:PORT of its server.
        dial: starts the call on a channel.
        greeting: the first message, this side's hello.
        hello_of: the hello in a message of the peer; None where it is another kind of message.
        on_message: called on the loop with each message of the peer after its hello.
        on_greeted: called once when the peer's hello has come.
    """

    def __init__(
        self,
        *,
        peer: str,
        address: str,
        dial: "Callable[[grpc.aio.Channel], StreamStreamCall[SentT, ReceivedT]]",
        greeting: SentT,
        hello_of: Callable[[ReceivedT], common_pb2.Hello | None],
        on_message: Callable[[ReceivedT], None],
        on_greeted: Callable[[], None] = lambda: None,
        config: LinkConfig | None = None,
    ) -> None:
        self.peer = peer
        self.address = address
        self._dial = dial
        self._greeting = greeting
        self._hello_of = hello_of
        self._on_message = on_message
        self._on_greeted = on_greeted
        self._config = config or LinkConfig()
        self._outbox: Outbox[SentT] = Outbox(peer, self._config.max_queued_messages)

    def send(self, message: SentT) -> None:
        """See `Wire.send`. Messages queued before the greeting is through go out after it."""
        self._outbox.put(message)

    async def run(self) -> OsaiError:
        """Dial, greet, and carry messages until the link ends; returns why it ended."""
        reason: OsaiError = UnavailableError(f"the link to {self.peer} was closed", subject=self.peer)
        try:
            async with insecure_channel(self.address, max_message_bytes=EDGE_MAX_BYTES) as channel:
                call = self._dial(channel)
                await self._greet(call)
                self._on_greeted()
                await self._carry(call)
        except OsaiError as e:
            reason = e
        except grpc.aio.AioRpcError as e:
            reason = error_of(e, self.address)
            reason.subject = reason.subject or self.peer
        except Exception as e:  # one message that this side can't handle must not end every other link
            log.exception("the link to %s failed", self.peer)
            reason = InternalError(f"the link to {self.peer} failed here ({type(e).__name__})", subject=self.peer)
        finally:  # also when cancelled: nobody may queue on a dead link
            self._outbox.close(reason)
        return reason

    async def _greet(self, call: "StreamStreamCall[SentT, ReceivedT]") -> None:
        try:
            async with asyncio.timeout(self._config.greeting_deadline_s):
                await call.write(self._greeting)
                answer = await call.read()
                while answer is not grpc.aio.EOF and self._hello_of(cast("ReceivedT", answer)) is None:
                    answer = await call.read()  # a refusal in words, perhaps: the stream's status has the typed one
        except TimeoutError as e:
            waited = self._config.greeting_deadline_s
            raise UnavailableError(
                f"{self.peer} at {self.address} did not answer within {waited:.0f} s", subject=self.peer
            ) from e
        theirs = None if answer is grpc.aio.EOF else self._hello_of(cast("ReceivedT", answer))
        if theirs is None:
            raise UnavailableError(f"{self.peer} at {self.address} ended the link unheard", subject=self.peer)
        check_hello(theirs)

    async def _carry(self, call: "StreamStreamCall[SentT, ReceivedT]") -> None:
        writer = asyncio.create_task(self._write(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                self._on_message(cast("ReceivedT", message))
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await writer

    async def _write(self, call: "StreamStreamCall[SentT, ReceivedT]") -> None:
        while True:
            await call.write(await self._outbox.get())


EdgeLink = Link[edge_pb2.LinkMessage, edge_pb2.LinkMessage]
ControlLink = Link[control_pb2.NodeMessage, control_pb2.CoordinatorMessage]


def edge_link(
    peer: str,
    address: str,
    my_id: str,
    on_message: Callable[[edge_pb2.LinkMessage], None],
    config: LinkConfig | None = None,
) -> EdgeLink:
    """A link of the data plane to the node `peer`."""
    return Link(
        peer=peer,
        address=address,
        dial=lambda channel: edge_pb2_grpc.EdgeStub(channel).Link(),
        greeting=edge_pb2.LinkMessage(hello=hello(my_id)),
        hello_of=lambda message: message.hello if message.HasField("hello") else None,
        on_message=on_message,
        config=config,
    )


def control_link(
    address: str,
    my_id: str,
    on_message: Callable[[control_pb2.CoordinatorMessage], None],
    on_greeted: Callable[[], None],
) -> ControlLink:
    """A node's control stream to the coordinator at `address`."""
    return Link(
        peer=f"the coordinator at {address}",
        address=address,
        dial=lambda channel: control_pb2_grpc.ControlStub(channel).Membership(),
        greeting=control_pb2.NodeMessage(hello=hello(my_id)),
        hello_of=lambda message: message.hello if message.HasField("hello") else None,
        on_message=on_message,
        on_greeted=on_greeted,
    )
