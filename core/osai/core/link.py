"""The dialling side of a long-lived stream to one peer: an edge of the ring, or a node's control stream.

Both begin with a hello each way; after it messages flow in both directions until either side ends the stream. Where the
peer offers a bare stream (osai.core.frame_stream), what this side sends goes there, and the call carries the answers.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import grpc

from osai.core.admission.access import check_answer
from osai.core.admission.roles import Role, server_name
from osai.core.call_end import CallEnd
from osai.core.errors import InternalError, OsaiError, UnavailableError
from osai.core.frame_stream import OFFER_METADATA_KEY, FrameSender, StreamMessage, StreamTls, dial_stream
from osai.core.member_channel import member_channel
from osai.core.member_tls import MemberTls
from osai.core.outbox import LinkConfig, Outbox, Wire
from osai.core.protocol import check_hello, hello
from osai.core.reading import Parser
from osai.core.rpc import EDGE_MAX_BYTES, PATIENT, WATCHFUL, Pings, error_of
from osai.proto import common_pb2, control_pb2, edge_pb2

if TYPE_CHECKING:
    from grpc.aio import StreamStreamCall

    Call = StreamStreamCall[bytes, bytes]  # of a link: messages are made and read here, where errors keep their types

__all__ = ["ControlLink", "EdgeLink", "Link", "LinkConfig", "Outbox", "Wire", "control_link", "edge_link"]

log = logging.getLogger(__name__)

END_GRACE_S = 2.0  # between the end of the bare stream and that of the call, which says why

SentT = TypeVar("SentT", bound=StreamMessage)
ReceivedT = TypeVar("ReceivedT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Whom a link is to reach, in a private swarm.

    Attributes:
        tls: of this member; None in a public swarm.
        role, member_id: that the peer's certificate must have; an empty id: any of that role.
    """

    tls: MemberTls | None
    role: Role
    member_id: str = ""

    def stream(self) -> StreamTls | None:
        """How its bare stream is dialled."""
        if self.tls is None:
            return None
        name = server_name(self.role, self.member_id)
        return StreamTls(context=self.tls.context(is_server=False), server_name=name)


class Link(Generic[SentT, ReceivedT]):
    """A stream to one peer. `run` holds it open; it ends when either side does, and is not dialled again.

    Args:
        peer: the peer's id, for messages.
        address: HOST:PORT of its server.
        method: of the call that carries it, as gRPC has it.
        parse: reads a message of the peer; it raises PeerError for bytes that are none.
        greeting: the first message, this side's hello.
        hello_of: the hello in a message of the peer; None where it is another kind of message.
        on_message: called on the loop with each message of the peer after its hello.
        on_greeted: called once when the peer's hello has come.
        demand: who the peer must be, in a private swarm.
        pings: by which a frozen peer is noticed.
    """

    def __init__(
        self,
        *,
        peer: str,
        address: str,
        method: str,
        parse: Callable[[bytes], ReceivedT],
        greeting: SentT,
        hello_of: Callable[[ReceivedT], common_pb2.Hello | None],
        on_message: Callable[[ReceivedT], None],
        on_greeted: Callable[[], None] = lambda: None,
        config: LinkConfig | None = None,
        demand: Demand | None = None,
        pings: Pings = PATIENT,
    ) -> None:
        self._pings = pings
        self.peer = peer
        self.address = address
        self._method = method
        self._parse = parse
        self._greeting = greeting
        self._hello_of = hello_of
        self._demand = demand or Demand(tls=None, role=Role.NODE)
        self._on_message = on_message
        self._on_greeted = on_greeted
        self._config = config or LinkConfig()
        self._outbox: Outbox[SentT] = Outbox(peer, self._config.max_queued_messages)
        self._stream: FrameSender[SentT] | None = None
        self._ended: asyncio.Future[OsaiError] = asyncio.get_running_loop().create_future()

    def send(self, message: SentT) -> None:
        """See `Wire.send`. Messages queued before the greeting is through go out after it."""
        stream = self._stream
        if stream is not None and stream.ready and self._outbox.idle:
            stream.send(message)  # nothing waits: no task need wake up for it
        else:
            self._outbox.put(message)

    def end(self, reason: OsaiError) -> None:
        """End the link: what waits is dropped."""
        if not self._ended.done():
            self._ended.set_result(reason)

    @property
    def num_queued(self) -> int:
        """Messages that wait to be written."""
        return self._outbox.num_waiting

    async def run(self) -> OsaiError:
        """Dial, greet, and carry messages until the link ends; returns why it ended."""
        reason: OsaiError = UnavailableError(f"the link to {self.peer} was closed", subject=self.peer)
        try:
            demand = self._demand
            async with member_channel(
                self.address,
                demand.tls,
                demand.role,
                demand.member_id,
                max_message_bytes=EDGE_MAX_BYTES,
                pings=self._pings,
            ) as channel:
                dial: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(self._method)
                await self._talk(dial())
        except OsaiError as e:
            reason = e
        except Exception as e:  # one message that this side can't handle must not end every other link
            log.exception("the link to %s failed", self.peer)
            reason = InternalError(f"the link to {self.peer} failed here ({type(e).__name__})", subject=self.peer)
        finally:  # also when cancelled: nobody may queue on a dead link
            reason.subject = reason.subject or self.peer
            self._outbox.close(reason)
        return reason

    async def _talk(self, call: "Call") -> None:
        end = CallEnd(call)
        try:
            await self._greet(call)
            self._on_greeted()
            await self._carry(call)
        except grpc.aio.AioRpcError as e:
            raise error_of(await end.failure(e), self.address) from e

    async def _greet(self, call: "Call") -> None:
        try:
            async with asyncio.timeout(self._config.greeting_deadline_s):
                await call.write(self._greeting.SerializeToString())
                theirs = None
                while theirs is None and (answer := await self._next(call)) is not None:
                    theirs = self._hello_of(answer)  # else a refusal in words, perhaps: the status has the typed one
        except TimeoutError as e:
            waited = self._config.greeting_deadline_s
            raise UnavailableError(
                f"{self.peer} at {self.address} did not answer within {waited:.0f} s", subject=self.peer
            ) from e
        if theirs is None:
            raise UnavailableError(f"{self.peer} at {self.address} ended the link unheard", subject=self.peer)
        check_hello(theirs)

    async def _carry(self, call: "Call") -> None:
        self._stream = await self._dial_stream(call)
        reader = asyncio.create_task(self._read(call))
        writer = asyncio.create_task(self._write(call) if self._stream is None else self._stream.write(self._outbox))
        try:
            await asyncio.wait((reader, writer, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                raise self._ended.result()
            if not reader.done():
                await asyncio.wait((reader,), timeout=END_GRACE_S)
            (reader if reader.done() else writer).result()
        finally:
            if self._stream is not None:
                self._stream.close()
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _dial_stream(self, call: "Call") -> "FrameSender[SentT] | None":
        """The bare stream where the peer offers one and it can be had; else the call carries everything."""
        offered = [value for key, value in await call.initial_metadata() or () if key == OFFER_METADATA_KEY]
        if not offered or not isinstance(offered[0], bytes):
            return None
        try:
            sender: FrameSender[SentT] = FrameSender(offered[0])
            await dial_stream(self.address, sender, self._config.greeting_deadline_s, self._demand.stream())
        except UnavailableError as e:
            log.warning("the link to %s goes by gRPC alone: %s", self.peer, e)
            return None
        return sender

    async def _read(self, call: "Call") -> None:
        while (message := await self._next(call)) is not None:
            self._on_message(message)

    async def _next(self, call: "Call") -> ReceivedT | None:
        """The peer's next message; None where it has ended the link."""
        data = await call.read()
        return None if data is grpc.aio.EOF else self._parse(cast("bytes", data))

    async def _write(self, call: "Call") -> None:
        while True:
            message = await self._outbox.get()
            await call.write(message.SerializeToString())


EdgeLink = Link[edge_pb2.LinkMessage, edge_pb2.LinkMessage]
ControlLink = Link[control_pb2.NodeMessage, control_pb2.CoordinatorMessage]


def edge_link(
    peer: str,
    address: str,
    my_id: str,
    on_message: Callable[[edge_pb2.LinkMessage], None],
    config: LinkConfig | None = None,
    tls: MemberTls | None = None,
) -> EdgeLink:
    """A link of the data plane to the node `peer`."""
    return Link(
        peer=peer,
        address=address,
        method="/osai.v1.Edge/Link",
        parse=Parser(edge_pb2.LinkMessage.FromString),
        greeting=edge_pb2.LinkMessage(hello=hello(my_id)),
        hello_of=lambda message: message.hello if message.HasField("hello") else None,
        demand=Demand(tls=tls, role=Role.NODE, member_id=peer),
        on_message=on_message if tls is None else partial(_checked, on_message, tls.me.role),
        config=config,
        pings=WATCHFUL,
    )


def _checked(on_message: Callable[[edge_pb2.LinkMessage], None], role: Role, message: edge_pb2.LinkMessage) -> None:
    check_answer(message.WhichOneof("kind"), role)  # S18
    on_message(message)


def control_link(
    address: str,
    my_id: str,
    on_message: Callable[[control_pb2.CoordinatorMessage], None],
    on_greeted: Callable[[], None],
    tls: MemberTls | None = None,
) -> ControlLink:
    """A node's control stream to the coordinator at `address`."""
    return Link(
        peer=f"the coordinator at {address}",
        address=address,
        method="/osai.v1.Control/Membership",
        parse=Parser(control_pb2.CoordinatorMessage.FromString),
        greeting=control_pb2.NodeMessage(hello=hello(my_id)),
        hello_of=lambda message: message.hello if message.HasField("hello") else None,
        demand=Demand(tls=tls, role=Role.COORDINATOR),
        on_message=on_message,
        on_greeted=on_greeted,
    )
