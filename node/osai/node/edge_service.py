"""The node's data-plane service: peers dial in, greet, and exchange messages with the ring."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from osai.core.admission.access import check_greeting
from osai.core.admission.peer import Peer
from osai.core.errors import OsaiError, ProtocolMismatchError, UnavailableError
from osai.core.frame_receiver import FrameReceiver
from osai.core.frame_stream import OFFER_METADATA_KEY
from osai.core.link import Outbox
from osai.core.member_tls import MemberTls, peer_certificate
from osai.core.port.callers import caller_host
from osai.core.protocol import check_hello, hello
from osai.core.rpc import abort
from osai.node.edge_port import EdgePort
from osai.node.ring import Ring
from osai.proto import edge_pb2, edge_pb2_grpc

log = logging.getLogger(__name__)

GREETING_DEADLINE_S = 5.0  # a peer that dials and says nothing does not hold a stream for longer

END_GRACE_S = 1.0  # between the end of a link's stream and that of its call

Context = grpc.aio.ServicerContext[edge_pb2.LinkMessage, edge_pb2.LinkMessage]


class EdgeService(edge_pb2_grpc.EdgeServicer):
    """Serves Edge.Link for one ring.

    Args:
        node_id: this node.
        ring: takes the messages.
        port: offers each link a bare stream; without one everything goes by gRPC.
        tls: of this node; None in a public swarm.
    """

    def __init__(self, node_id: str, ring: Ring, port: EdgePort | None = None, tls: MemberTls | None = None) -> None:
        self._node_id = node_id
        self._ring = ring
        self._port = port
        self._tls = tls

    async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        """One peer's link, from its hello until either side ends it."""
        ticket, stream = b"", FrameReceiver()
        try:
            member = self._tls.peer_of(peer_certificate(context)) if self._tls else None
            if self._port is not None:
                ticket, stream = self._port.offer(member.member_id if member else "")
            await self._serve(request_iterator, context, ticket, stream, member)
        except OsaiError as e:
            log.warning("ended a link from %s: %s", context.peer(), e)
            await abort(context, e)
        finally:
            if self._port is not None:
                self._port.withdraw(ticket)
            stream.close()

    async def _serve(
        self,
        messages: AsyncIterator[edge_pb2.LinkMessage],
        context: Context,
        ticket: bytes,
        stream: FrameReceiver,
        member: Peer | None,
    ) -> None:
        peer = await self._greet(messages, context, ticket, member)
        owner, outbox = (
            self._ring.attach(peer, member) if member else self._ring.attach(peer, host=caller_host(context.peer()))
        )
        writer = asyncio.create_task(_write(outbox, context))
        try:
            await self._read(owner, messages, stream)
        finally:
            self._ring.detach(owner)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.UsageError):
                await writer

    async def _greet(
        self, messages: AsyncIterator[edge_pb2.LinkMessage], context: Context, ticket: bytes, member: Peer | None
    ) -> str:
        try:
            async with asyncio.timeout(GREETING_DEADLINE_S):
                first = await anext(messages, None)
        except TimeoutError as e:
            raise UnavailableError(f"no hello came within {GREETING_DEADLINE_S:.0f} s") from e
        if first is None or first.WhichOneof("kind") != "hello":
            raise ProtocolMismatchError("the first message on a link must be hello; is the peer an osai member?")
        check_hello(first.hello)
        if member is not None:
            check_greeting(member, first.hello.peer_id)
        if ticket:
            await context.send_initial_metadata(((OFFER_METADATA_KEY, ticket),))
        await context.write(edge_pb2.LinkMessage(hello=hello(self._node_id)))
        return first.hello.peer_id or "a peer without id"

    async def _read(self, owner: int, messages: AsyncIterator[edge_pb2.LinkMessage], stream: FrameReceiver) -> None:
        """Take messages from both ways until the call ends; a dialler uses one of them."""
        streaming = asyncio.create_task(self._read_stream(owner, stream))
        calling = asyncio.create_task(self._read_call(owner, messages))
        try:
            await asyncio.wait((streaming, calling), return_when=asyncio.FIRST_COMPLETED)
            if streaming.done() and isinstance(streaming.exception(), UnavailableError):
                await asyncio.wait((calling,), timeout=END_GRACE_S)  # a link that was ended in peace loses both
            if calling.done():
                calling.result()
            else:
                streaming.result()
        finally:
            streaming.cancel()
            calling.cancel()
            await asyncio.gather(streaming, calling, return_exceptions=True)

    async def _read_call(self, owner: int, messages: AsyncIterator[edge_pb2.LinkMessage]) -> None:
        async for message in messages:
            await self._ring.receive(owner, message)

    async def _read_stream(self, owner: int, stream: FrameReceiver) -> None:
        while True:
            await self._ring.receive(owner, await stream.next())


async def _write(outbox: Outbox[edge_pb2.LinkMessage], context: Context) -> None:
    while True:
        await context.write(await outbox.get())
