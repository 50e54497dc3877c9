"""The node's data-plane service: peers dial in, greet, and exchange messages with the ring."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from osai.core.errors import OsaiError, ProtocolMismatchError, UnavailableError
from osai.core.link import Outbox
from osai.core.protocol import check_hello, hello
from osai.core.rpc import abort
from osai.node.ring import Ring
from osai.proto import edge_pb2, edge_pb2_grpc

log = logging.getLogger(__name__)

GREETING_DEADLINE_S = 5.0  # a peer that dials and says nothing does not hold a stream for longer

Context = grpc.aio.ServicerContext[edge_pb2.LinkMessage, edge_pb2.LinkMessage]


class EdgeService(edge_pb2_grpc.EdgeServicer):
    """Serves Edge.Link for one ring."""

    def __init__(self, node_id: str, ring: Ring) -> None:
        self._node_id = node_id
        self._ring = ring

    async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        """One peer's link, from its hello until either side ends it."""
        try:
            peer = await self._greet(request_iterator, context)
        except OsaiError as e:
            log.warning("refused a link from %s: %s", context.peer(), e)
            await abort(context, e)
        owner, outbox = self._ring.attach(peer)
        writer = asyncio.create_task(_write(outbox, context))
        try:
            await self._read(owner, request_iterator)
        finally:
            self._ring.detach(owner)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.UsageError):
                await writer

    async def _greet(self, messages: AsyncIterator[edge_pb2.LinkMessage], context: Context) -> str:
        try:
            async with asyncio.timeout(GREETING_DEADLINE_S):
                first = await anext(messages, None)
        except TimeoutError as e:
            raise UnavailableError(f"no hello came within {GREETING_DEADLINE_S:.0f} s") from e
        if first is None or first.WhichOneof("kind") != "hello":
            raise ProtocolMismatchError("the first message on a link must be hello; is the peer an osai member?")
        check_hello(first.hello)
        await context.write(edge_pb2.LinkMessage(hello=hello(self._node_id)))
        return first.hello.peer_id or "a peer without id"

    async def _read(self, owner: int, messages: AsyncIterator[edge_pb2.LinkMessage]) -> None:
        async for message in messages:
            await self._ring.receive(owner, message)


async def _write(outbox: Outbox[edge_pb2.LinkMessage], context: Context) -> None:
    while True:
        await context.write(await outbox.get())
