"""The stage's shell: frames in, steps of the engine, frames out. Decisions are StageTable's."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch

from osai.core.errors import BadFrameError, OsaiError, from_proto
from osai.core.frames import FrameShape, check_batch
from osai.core.link import Outbox
from osai.core.link_pool import Lane, LinkPool
from osai.node.engine.api import Input, Rows, StepOutput
from osai.node.engine.engine import Engine
from osai.node.stage import (
    Action,
    Deliver,
    Fail,
    Forward,
    HostedSpan,
    Peer,
    Release,
    Return,
    StageTable,
)
from osai.node.wire import read_open, read_rows, read_tensor, write_batch, write_token
from osai.proto import edge_pb2

log = logging.getLogger(__name__)

MAX_QUEUED_REPLIES = 4096  # tokens and failures for one coordinator; one that is further behind is as good as lost


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSpan:
    """A hosted span and what its frames look like."""

    hosted: HostedSpan
    frames: FrameShape


class Ring:
    """Carries out what the stage table decides. Use it as an async context manager; all of it runs on the loop.

    Args:
        me: this node on the edges.
        make_engine: builds the engine that runs the steps, given the callback for their outputs.
    """

    def __init__(self, me: Peer, make_engine: Callable[[Callable[[StepOutput], None]], Engine]) -> None:
        self._me = me
        self._table = StageTable()
        self._served: dict[str, ServedSpan] = {}
        self._owners: dict[int, Outbox[edge_pb2.LinkMessage]] = {}
        self._num_owners = 0
        self._tasks = asyncio.TaskGroup()
        self.engine = make_engine(self.stepped)
        self._pool = LinkPool(me.node_id, self._answered, self._lost)

    @property
    def num_sessions(self) -> int:
        """Sessions open on this node."""
        return self._table.num_sessions

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.__aexit__()
        await self._tasks.__aexit__(None, None, None)

    def serve(self, span: ServedSpan) -> None:
        """Serve a span that the engine holds."""
        self._served[span.hosted.key] = span
        self._table.host(span.hosted)

    def attach(self, peer: str) -> tuple[int, Outbox[edge_pb2.LinkMessage]]:
        """A peer has dialled in: its number here, and where to put what it is to be told."""
        self._num_owners += 1
        outbox: Outbox[edge_pb2.LinkMessage] = Outbox(peer, MAX_QUEUED_REPLIES)
        self._owners[self._num_owners] = outbox
        return self._num_owners, outbox

    def detach(self, owner: int) -> None:
        """A peer's link has ended: so do the sessions that it opened."""
        self._owners.pop(owner, None)
        self._perform(self._table.owner_lost(owner))

    async def receive(self, owner: int, message: edge_pb2.LinkMessage) -> None:
        """One message of a peer that has dialled in."""
        match message.WhichOneof("kind"):
            case "frames":
                self._frames(owner, message.frames)
            case "open":
                await self._open(owner, message.open)
            case "close":
                self._perform(self._table.close(message.close.session))
            case kind:
                log.warning("peer %d sent %s, which a node does not take; ignored", owner, kind or "nothing known")

    async def _open(self, owner: int, message: edge_pb2.OpenSession) -> None:
        try:
            spec = self._table.open(read_open(message), owner)
        except OsaiError as e:
            self._tell(owner, _failed(message.session, message.epoch, e))
            return
        try:
            await self.engine.open(spec)
        except OsaiError as e:
            self._perform(self._table.fail(spec.session, e))
            return
        opened = edge_pb2.SessionOpened(session=message.session, epoch=message.epoch)
        self._tell(owner, edge_pb2.LinkMessage(opened=opened))

    def _frames(self, owner: int, batch: edge_pb2.FrameBatch) -> None:
        """Queue a batch's rows; whoever sent a bad one is told, and tells the session's owner if it knows it."""
        rows = [read_rows(frame) for frame in batch.frames]
        live = self._live(owner, rows)
        if not live:
            return
        try:
            self._check(batch, {span.key for span in live.values()})
        except BadFrameError as e:
            for part in rows:
                self._tell(owner, _failed(part.session, part.epoch, e))
            return
        at = 0
        tensor = read_tensor(batch)  # [num_tokens] or [num_tokens, hidden_size]
        for part in rows:
            if part.session in live:
                self._submit(part, tensor[at : at + part.count], lambda failed: self._tell(owner, failed))
            at += part.count

    def _live(self, owner: int, rows: list[Rows]) -> dict[int, HostedSpan]:
        """The spans of the sessions whose rows are to run; the sender is told of those that it should not know."""
        live: dict[int, HostedSpan] = {}
        for part in rows:
            try:
                if (span := self._table.span_of(part)) is not None:
                    live[part.session] = span
            except OsaiError as e:
                self._tell(owner, _failed(part.session, part.epoch, e))
        return live

    def _check(self, batch: edge_pb2.FrameBatch, spans: set[str]) -> None:
        if len(spans) > 1:
            raise BadFrameError("a batch's frames are for several models; send one batch a model")
        check_batch(batch, self._served[spans.pop()].frames)

    def _submit(self, rows: Rows, data: torch.Tensor, tell: Callable[[edge_pb2.LinkMessage], None]) -> None:
        data = data.long() if data.dtype == torch.int32 else data
        try:
            self.engine.submit(Input(rows=rows, data=data))
        except OsaiError as e:
            tell(_failed(rows.session, rows.epoch, e))

    def stepped(self, output: StepOutput) -> None:
        """The engine's `on_output`."""
        self._perform(self._table.stepped(output), output.hidden)

    def _answered(self, peer: str, message: edge_pb2.LinkMessage) -> None:
        """A successor says something on our link to it: only that it can't take a session's frames."""
        if message.WhichOneof("kind") == "failed":
            error = from_proto(message.failed.error)
            error.subject = error.subject or peer
            self._perform(self._table.fail(message.failed.session, error))

    def _lost(self, peer: str, _reason: OsaiError) -> None:
        self._perform(self._table.peer_lost(peer))  # the pool has logged the reason

    def _perform(self, actions: list[Action], hidden: torch.Tensor | None = None) -> None:
        for action in actions:
            match action:
                case Forward() if hidden is not None:
                    parts = [hidden[start:end] for start, end in action.slices]
                    tensor = parts[0] if len(parts) == 1 else torch.cat(parts)  # [num_tokens, hidden_size]
                    self._push(action.peer, action.rows, tensor, Lane.PREFILL if action.prefill else Lane.DECODE)
                case Return():
                    self._return(action)
                case Deliver():
                    batch = edge_pb2.TokenBatch(tokens=[write_token(token) for token in action.tokens])
                    self._tell(action.owner, edge_pb2.LinkMessage(tokens=batch))
                case Fail():
                    log.warning("session %016x ends here: %s", action.session, action.error)
                    self._tell(action.owner, _failed(action.session, action.epoch, action.error))
                case Release():
                    self._tasks.create_task(self.engine.close(action.session))

    def _return(self, action: Return) -> None:
        tokens = torch.tensor(action.token_ids, dtype=torch.int32)  # [num_sessions]
        if action.peer.node_id != self._me.node_id:
            self._push(action.peer, action.rows, tokens, Lane.DECODE)
            return
        for rows, token in zip(action.rows, tokens, strict=True):  # this node is head and tail
            self._submit(
                rows,
                token[None],
                lambda f: self._perform(self._table.fail(f.failed.session, from_proto(f.failed.error))),
            )

    def _push(self, peer: Peer, rows: tuple[Rows, ...], tensor: torch.Tensor, lane: Lane) -> None:
        try:
            self._pool.wire(peer.node_id, peer.address, lane).send(write_batch(rows, tensor))
        except OsaiError as e:
            log.warning("node %s can't be pushed to: %s", peer.node_id, e)
            self._perform(self._table.peer_lost(peer.node_id))

    def _tell(self, owner: int, message: edge_pb2.LinkMessage) -> None:
        outbox = self._owners.get(owner)
        if outbox is None:
            return  # its link has ended, and its sessions with it
        try:
            outbox.put(message)
        except OsaiError as e:
            log.warning("dropping a peer that does not read: %s", e)
            self.detach(owner)


def _failed(session: int, epoch: int, error: OsaiError) -> edge_pb2.LinkMessage:
    return edge_pb2.LinkMessage(failed=edge_pb2.SessionFailed(session=session, epoch=epoch, error=error.to_proto()))
