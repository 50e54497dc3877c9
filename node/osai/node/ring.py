"""The stage's shell: frames in, steps of the engine, frames out. Decisions are StageTable's."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from osai.core.errors import OsaiError, from_proto
from osai.core.frames import FrameShape
from osai.core.link import Outbox
from osai.core.link_pool import Lane, LinkPool
from osai.node.engine.api import Input, Rows, StepOutput
from osai.node.engine.engine import Engine
from osai.node.intake import Intake
from osai.node.owners import Owners
from osai.node.stage import Action, Deliver, Fail, Forward, HostedSpan, Peer, Release, Return
from osai.node.stage_table import StageTable
from osai.node.wire import read_hashes, read_open, write_batch, write_failed, write_token
from osai.proto import edge_pb2

log = logging.getLogger(__name__)


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
        self._owners = Owners()
        self._intake = Intake(self._table, self._tell)
        self._tasks = asyncio.TaskGroup()
        self._over = False
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
        self._over = True
        await self._tasks.__aexit__(None, None, None)

    def serve(self, span: ServedSpan) -> None:
        """Serve a span that the engine holds."""
        self._intake.serve(span.hosted.key, span.frames)
        self._table.host(span.hosted)

    def attach(self, peer: str) -> tuple[int, Outbox[edge_pb2.LinkMessage]]:
        """A peer has dialled in: its number here, and where to put what it is to be told."""
        return self._owners.attach(peer)

    def detach(self, owner: int) -> None:
        """A peer's link has ended: so do the sessions that it opened."""
        self._owners.detach(owner)
        self._perform(self._table.owner_lost(owner))

    async def receive(self, owner: int, message: edge_pb2.LinkMessage) -> None:
        """One message of a peer that has dialled in."""
        match message.WhichOneof("kind"):
            case "frames":
                for rows, data in self._intake.rows_of(owner, message.frames):
                    self._submit(rows, data, owner)
            case "open":
                await self._open(owner, message.open)
            case "close":
                await self._close(owner, message.close)
            case kind:
                log.warning("peer %d sent %s, which a node does not take; ignored", owner, kind or "nothing known")

    async def _open(self, owner: int, message: edge_pb2.OpenSession) -> None:
        # Sessions of one peer share KV with each other alone: what it says of blocks can harm nobody else's.
        scope = self._owners.peer(owner)
        try:
            spec = self._table.open(read_open(message), owner, scope)
        except OsaiError as e:
            self._tell(owner, write_failed(message.session, message.epoch, e))
            return
        try:
            num_cached_tokens = await self.engine.open(spec)
        except OsaiError as e:
            self._perform(self._table.fail(spec.session, e))
            return
        opened = edge_pb2.SessionOpened(
            session=message.session, epoch=message.epoch, num_cached_tokens=num_cached_tokens
        )
        self._tell(owner, edge_pb2.LinkMessage(opened=opened))

    async def _close(self, owner: int, message: edge_pb2.CloseSession) -> None:
        """End a session; whoever names blocks that it can't have is told, and none are kept."""
        hashes: tuple[bytes, ...] = ()
        try:
            hashes = read_hashes(message.block_hashes, self._table.num_nameable_blocks(message.session, owner))
        except OsaiError as e:
            self._tell(owner, write_failed(message.session, 0, e))
        for release in self._table.close(message.session, hashes):
            # here and now: the next message may open a session, which needs the room
            await self.engine.close(release.session, release.block_hashes)

    def _submit(self, rows: Rows, data: torch.Tensor, owner: int | None) -> None:
        """Give rows to the engine; if it refuses them, tell `owner`, or end the session where they are this node's."""
        try:
            self.engine.submit(Input(rows=rows, data=data.long() if data.dtype == torch.int32 else data))
        except OsaiError as e:
            if owner is None:
                self._perform(self._table.fail(rows.session, e))
            else:
                self._tell(owner, write_failed(rows.session, rows.epoch, e))

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

    def _perform(self, actions: Sequence[Action], hidden: torch.Tensor | None = None) -> None:
        for action in actions:
            match action:
                case Forward() if hidden is not None:
                    lane = Lane.PREFILL if action.prefill else Lane.DECODE
                    self._push(action.peer, action.rows, _cut(hidden, action.slices), lane)
                case Return():
                    self._return(action)
                case Deliver():
                    batch = edge_pb2.TokenBatch(tokens=[write_token(token) for token in action.tokens])
                    self._tell(action.owner, edge_pb2.LinkMessage(tokens=batch))
                case Fail():
                    log.warning("session %016x ends here: %s", action.session, action.error)
                    self._tell(action.owner, write_failed(action.session, action.epoch, action.error))
                case Release() if not self._over:  # a link may end later than the ring; the engine ends too then
                    self._tasks.create_task(self.engine.close(action.session, action.block_hashes))

    def _return(self, action: Return) -> None:
        tokens = torch.tensor(action.token_ids, dtype=torch.int32)  # [num_sessions]
        if action.peer.node_id != self._me.node_id:
            self._push(action.peer, action.rows, tokens, Lane.DECODE)
            return
        for rows, token in zip(action.rows, tokens, strict=True):  # this node is head and tail
            self._submit(rows, token[None], owner=None)

    def _push(self, peer: Peer, rows: tuple[Rows, ...], tensor: torch.Tensor, lane: Lane) -> None:
        try:
            self._pool.wire(peer.node_id, peer.address, lane).send(write_batch(rows, tensor))
        except OsaiError as e:
            log.warning("node %s can't be pushed to: %s", peer.node_id, e)
            self._perform(self._table.peer_lost(peer.node_id))

    def _tell(self, owner: int, message: edge_pb2.LinkMessage) -> None:
        if not self._owners.tell(owner, message):
            self.detach(owner)


def _cut(hidden: torch.Tensor, slices: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Those rows of `hidden`, [num_tokens, hidden_size]; mostly they are all, and nothing is copied."""
    if len(slices) > 1:
        return torch.cat([hidden[start:end] for start, end in slices])
    start, end = slices[0]
    return hidden if end - start == len(hidden) else hidden[start:end]
