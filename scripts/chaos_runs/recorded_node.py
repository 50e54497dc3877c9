"""A node of an older release, as it was recorded: it says what it said then, and computes what it computed then."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
from scripts.chaos_runs.recorded_span import LINK, RecordedSession, RecordedSpan, Rows, rows_of
from scripts.chaos_runs.recording import Recording

from osai.core.errors import BadFrameError, OsaiError, UnavailableError
from osai.core.link import EdgeLink, Link
from osai.core.manifest import parse
from osai.core.reading import Parser
from osai.core.rpc import EDGE_MAX_BYTES, WATCHFUL, abort, bind, insecure_channel, make_server
from osai.proto import common_pb2, control_pb2, control_pb2_grpc, edge_pb2, edge_pb2_grpc

MEMBERSHIP = "/osai.v1.Control/Membership"
HEARTBEAT_S = 1.0
JOIN_DEADLINE_S = 20.0
DTYPES: dict[Any, Any] = {  # numpy's: the wire's
    np.dtype(np.float32): common_pb2.DTYPE_FLOAT32,
    np.dtype(np.int32): common_pb2.DTYPE_INT32,
}
Message = edge_pb2.LinkMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """A session on the node; `owner` is the link that it was opened on: tokens go there."""

    asked: edge_pb2.OpenSession
    recorded: RecordedSession
    owner: Any


class RecordedNode(edge_pb2_grpc.EdgeServicer):
    """Speaks for the recorded node called `name`.

    Attributes:
        node_id: as then.
        num_rows: that it has computed.
        violations: what came to it that its release does not know, in words.
    """

    def __init__(self, recording: Recording, name: str) -> None:
        self.node_id = recording.ids[name]
        self.num_rows = 0
        self.violations: list[str] = []
        self._span = RecordedSpan.of(recording, name)
        self._said = _said(recording, self.node_id)
        self._hello = next(Message.FromString(said.data) for said in recording.of(LINK, name) if not said.by_dialler)
        self._open: dict[int, _Open] = {}
        self._links: dict[str, tuple[EdgeLink, asyncio.Task[OsaiError]]] = {}

    @asynccontextmanager
    async def joined(self, coordinator: str) -> AsyncIterator[None]:
        """Serve, and be a member, while the block runs; it leaves without a word, as if it were killed."""
        server = make_server(max_message_bytes=EDGE_MAX_BYTES)
        edge_pb2_grpc.add_EdgeServicer_to_server(self, server)
        address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
        async with AsyncExitStack() as stack:
            await server.start()
            stack.push_async_callback(server.stop, None)
            channel = await stack.enter_async_context(insecure_channel(coordinator, max_message_bytes=EDGE_MAX_BYTES))
            is_ready = asyncio.Event()
            member = asyncio.ensure_future(self._be_member(channel, address, is_ready))
            stack.push_async_callback(self._end, member)
            async with asyncio.timeout(JOIN_DEADLINE_S):
                await is_ready.wait()
            yield

    async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        """One peer's link."""
        await context.write(self._hello)
        try:
            async for message in request_iterator:
                await self._take(message, context)
        except OsaiError as e:
            self.violations.append(e.message)
            await abort(context, e)

    async def _be_member(self, channel: grpc.aio.Channel, address: str, is_ready: asyncio.Event) -> None:
        stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
        call = stub.Membership()
        started_at_s, digest = time.time(), b""
        for number, message in enumerate(self._said):
            kind = message.WhichOneof("kind")
            if kind in {"join", "heartbeat"}:
                record = getattr(message, kind).record
                record.edge_address, record.started_at_s = address, started_at_s
                record.sequence = int(started_at_s * 1000) + number
                for span in record.spans:
                    if span.manifest_digest:  # its manifest's format is read no more: the weights are the same
                        span.manifest_digest = digest
            await call.write(message)
            for due in {"hello": ("hello",), "join": ("welcome", "assignment")}.get(kind or "", ()):
                answer = await _answered(call, due)
                digest = parse(answer.assignment.manifest).digest if due == "assignment" else digest
        is_ready.set()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self._said[-1].heartbeat.record.sequence += 1
            await call.write(self._said[-1])

    async def _take(self, message: Message, context: Any) -> None:  # noqa: ANN401 - gRPC's
        match message.WhichOneof("kind"):
            case "open":
                self._refuse_new(message.open)
                recorded = self._span.session(message.open.sampling)
                self._open[message.open.session] = _Open(asked=message.open, recorded=recorded, owner=context)
                opened = edge_pb2.SessionOpened(session=message.open.session, epoch=message.open.epoch)
                await context.write(Message(opened=opened))
            case "frames":
                for frame, rows in rows_of(message.frames):
                    if frame.session in self._open:
                        await self._compute(frame, rows)
            case "close":
                self._open.pop(message.close.session, None)
            case "hello" | None:
                pass
            case kind:
                raise BadFrameError(f"a message of the kind {kind}, which the release does not know")

    async def _compute(self, frame: edge_pb2.Frame, rows: Rows) -> None:
        session = self._open[frame.session]
        for position, row in enumerate(rows, frame.position):
            self.num_rows += 1
            if session.recorded.is_tail:
                if position >= session.asked.num_prompt_tokens - 1:
                    await self._draw(session, position)
            else:
                self._push(session.asked, frame.epoch, position, session.recorded.output(position, row))

    async def _draw(self, session: _Open, position: int) -> None:
        opened, token_id = session.asked, session.recorded.token(position)
        is_last = position + 2 >= opened.max_total_tokens
        token = edge_pb2.Token(
            session=opened.session,
            epoch=opened.epoch,
            index=position + 1 - opened.num_prompt_tokens,
            token=common_pb2.SampledToken(token_id=token_id),
            finish=common_pb2.FINISH_REASON_LENGTH if is_last else common_pb2.FINISH_REASON_UNSPECIFIED,
        )
        await session.owner.write(Message(tokens=edge_pb2.TokenBatch(tokens=[token])))
        if not is_last:
            self._push(opened, opened.epoch, position + 1, np.array(token_id, dtype=np.int32))

    def _push(self, opened: edge_pb2.OpenSession, epoch: int, position: int, row: Rows) -> None:
        batch = edge_pb2.FrameBatch(
            frames=[edge_pb2.Frame(session=opened.session, epoch=epoch, position=position, count=1)],
            dtype=DTYPES[row.dtype],
            shape=[1, *row.shape],
            data=row.tobytes(),
        )
        with suppress(UnavailableError):  # the session's owner will learn of it
            self._link(opened.successor).send(Message(frames=batch))

    def _link(self, stage: common_pb2.Stage) -> EdgeLink:
        known = self._links.get(stage.node_id)
        if known is None or known[1].done():
            link: EdgeLink = Link(
                peer=stage.node_id,
                address=stage.address,
                method="/osai.v1.Edge/Link",
                parse=Parser(edge_pb2.LinkMessage.FromString),
                greeting=self._hello,
                hello_of=lambda message: message.hello if message.HasField("hello") else None,
                on_message=lambda _: None,
                pings=WATCHFUL,
            )
            known = self._links[stage.node_id] = (link, asyncio.ensure_future(link.run()))
        return known[0]

    def _refuse_new(self, opened: edge_pb2.OpenSession) -> None:
        if opened.resume or opened.follow:
            raise BadFrameError("a session is to be resumed or followed, which the release does not know")

    async def _end(self, member: asyncio.Task[None]) -> None:
        tasks = [member, *(task for _, task in self._links.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _said(recording: Recording, node_id: str) -> list[control_pb2.NodeMessage]:
    """What the node said to its coordinator, until it was ready."""
    own: list[control_pb2.NodeMessage] = []
    call = 0
    for said in recording.of(MEMBERSHIP):
        message = control_pb2.NodeMessage.FromString(said.data) if said.by_dialler else control_pb2.NodeMessage()
        if message.hello.peer_id == node_id:
            call = said.call
        if said.by_dialler and said.call == call and message.WhichOneof("kind") != "leave":
            own.append(message)
    return own


async def _answered(call: Any, due: str) -> Any:  # noqa: ANN401 - gRPC's
    async with asyncio.timeout(JOIN_DEADLINE_S):
        answer = await call.read()
    kind = None if answer is grpc.aio.EOF else answer.WhichOneof("kind")
    if kind != due:
        raise BadFrameError(f"the coordinator said {kind} where {due} was due")
    return answer
