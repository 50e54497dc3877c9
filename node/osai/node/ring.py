"""The stage's shell: frames in, steps of the engine, frames out. Decisions are StageTable's."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from osai.core.admission.peer import Peer as Member
from osai.core.errors import ResourceExhaustedError, TrustError, from_proto
from osai.core.frames import MAX_SESSIONS_PER_BATCH, FrameShape
from osai.core.link import Outbox
from osai.core.link_pool import Lane, LinkPool
from osai.core.member_tls import MemberTls
from osai.node.budgets import BudgetConfig, Budgets
from osai.node.engine.api import Rows, StepOutput
from osai.node.engine.engine import Engine
from osai.node.grammars import Grammars, MakeVocabulary
from osai.node.intake import Intake
from osai.node.owners import Owners
from osai.node.parties import Parties
from osai.node.stages.feeding import Feeding
from osai.node.stages.held_rows import HeldRows
from osai.node.stages.journal import DEFAULT_BYTES, Journal
from osai.node.stages.pushing import Pushing, Traffic
from osai.node.stages.replays import Replays
from osai.node.stages.session_desk import SessionDesk
from osai.node.stages.stage import (
    Action,
    Deliver,
    Fail,
    Forward,
    HostedSpan,
    Keep,
    Peer,
    Release,
    Replay,
    Report,
    Return,
)
from osai.node.stages.table import StageTable
from osai.node.wire import write_failed, write_report, write_token
from osai.proto import edge_pb2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSpan:
    """A hosted span and what its frames look like.

    Attributes:
        vocabulary: of a tail: makes the model's tokens, which grammars need; it may take seconds.
    """

    hosted: HostedSpan
    frames: FrameShape
    vocabulary: MakeVocabulary | None = None


class Ring:
    """Carries out what the stage table decides. Use it as an async context manager; all of it runs on the loop.

    Args:
        me: this node on the edges.
        make_engine: builds the engine that runs the steps, given the callback for their outputs.
        journal_bytes: for rows that a lost successor's replacement will need; 0 keeps none.
        tls: of this node; None in a public swarm.
        budgets: what one peer may take of this node.
        on_traffic: told of each message: over which kind of link, "dialled" or "accepted"; "sent" or "received"; bytes.

    Attributes:
        on_echo: called with the id of a peer that returns a probe, and the seconds of the round trip.
    """

    def __init__(
        self,
        me: Peer,
        make_engine: Callable[[Callable[[StepOutput], None]], Engine],
        *,
        journal_bytes: int = DEFAULT_BYTES,
        tls: MemberTls | None = None,
        budgets: BudgetConfig | None = None,
        on_traffic: Traffic | None = None,
    ) -> None:
        self._me, self._on_traffic = me, on_traffic
        self._budgets = Budgets(budgets)
        self.on_echo: Callable[[str, float], None] = lambda *_: None
        self._table, self._owners, self._parties = StageTable(), Owners(), Parties()
        self._intake = Intake(self._table, self._parties, self._tell)
        self._tasks, self._over = asyncio.TaskGroup(), False
        self.engine = make_engine(self.stepped)
        self._pool = LinkPool(me.node_id, self._answered, lambda peer, _reason: self._lost(peer), tls=tls)
        journal, held = Journal(journal_bytes), HeldRows()
        self._pushing = Pushing(self._pool, journal, self._lost, on_traffic)
        self._replays = Replays(self._table, journal, self._pushing, self._perform)
        self._feeding = Feeding(self._table, self.engine, held, self._owners.peer, self._tell, self._perform)
        self._grammars = Grammars()
        self._desk = SessionDesk(self._table, self.engine, journal, held, self._grammars, self._tell, self._perform)

    @property
    def num_sessions(self) -> int:
        """Sessions open on this node that have an owner."""
        return self._table.num_sessions

    @property
    def num_peers(self) -> int:
        """Links that nodes and coordinators hold to this node."""
        return len(self._owners)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        await self._pool.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.__aexit__()
        self._over = True
        self._grammars.close()
        await self._tasks.__aexit__(None, None, None)

    def serve(self, span: ServedSpan) -> None:
        """Serve a span that the engine holds; in place of another one of the same key, if it has been withdrawn."""
        self._intake.serve(span.hosted.key, span.frames)
        self._table.host(span.hosted)
        self._grammars.serve(span.hosted.key, span.vocabulary)

    def withdraw(self, key: str) -> None:
        """Serve a span no longer: its sessions end here, and their owners are told. An unknown key is no error."""
        self._perform(self._table.withdraw(key))
        self._grammars.withdraw(key)

    def attach(
        self, peer: str, member: Member | None = None, host: str = ""
    ) -> tuple[int, Outbox[edge_pb2.LinkMessage]]:
        """A peer has dialled in: its number here, and where to put what it is to be told.

        Args:
            peer: as it greets.
            member: who it is, in a private swarm.
            host: the address that it has dialled from, in a public one; empty where that is not known.

        Raises:
            ResourceExhaustedError: if it holds too many links already.
        """
        owner, outbox = self._owners.attach(peer)
        try:
            self._budgets.attach(owner, member.member_id if member else host or peer, time.monotonic())
        except ResourceExhaustedError:
            self._owners.detach(owner)
            raise
        if member is not None:
            self._parties.attach(owner, member)
        return owner, outbox

    def detach(self, owner: int) -> None:
        """A peer's link has ended: the sessions that it opened wait for another owner."""
        self._owners.detach(owner)
        self._parties.detach(owner)
        self._budgets.detach(owner)
        self._table.owner_lost(owner, time.monotonic())

    def tick(self, now_s: float) -> None:
        """Time has passed, by `time.monotonic`; to be called every few tenths of a second."""
        self._perform(self._table.tick(now_s))

    def probe(self, peer: Peer) -> None:
        """Send a probe on the lane for decode rows, which is dialled if there is none; its echo comes to `on_echo`."""
        probe = edge_pb2.Probe(sent_ns=time.monotonic_ns())
        self._pushing.send(peer, edge_pb2.LinkMessage(probe=probe), Lane.DECODE)

    async def receive(self, owner: int, message: edge_pb2.LinkMessage) -> None:
        """One message of a peer that has dialled in.

        Raises:
            TrustError: if a peer of its role sends no such message.
            OsaiError: if what is in it can't be meant for anybody: a batch without frames, names that are too long.
        """
        kind = message.WhichOneof("kind")
        if self._on_traffic:
            self._on_traffic("accepted", "received", message.ByteSize())
        self._parties.check_kind(owner, kind)
        if not self._is_due(owner, message) or not self._is_within(owner, message):
            return
        match kind:
            case "frames":
                self._feed((rows, data, owner) for rows, data in self._intake.rows_of(owner, message.frames))
            case "open":
                if await self._desk.open(owner, self._owners.peer(owner), message.open):
                    self._parties.opened(owner, message.open)
                    self._budgets.opened(owner, message.open.session, message.open.max_total_tokens)
            case "resume":
                self._feed(await self._desk.resume(owner, message.resume))
            case "follow":
                self._desk.follow(owner, message.follow)
            case "close":
                self._desk.close(owner, message.close)
            case "probe":
                self._tell(owner, edge_pb2.LinkMessage(echo=message.probe))
            case _:
                log.debug("peer %d sent %s, which a node does not take; ignored", owner, kind or "nothing known")

    def _feed(self, parts: Iterable[tuple[Rows, torch.Tensor, int | None]]) -> None:
        for rows, data, sender in parts:
            self._feeding.submit(rows, data, sender)

    def _is_due(self, owner: int, message: edge_pb2.LinkMessage) -> bool:
        """Whether a peer may say this of a session; else it is told why not, and nothing follows."""
        try:
            self._parties.check_session(owner, message)
        except TrustError as e:
            about = getattr(message, message.WhichOneof("kind") or "")
            log.warning("ignored what peer %d said of session %016x: %s", owner, about.session, e)
            self._tell(owner, write_failed(about.session, about.epoch, e))
            return False
        return True

    def _is_within(self, owner: int, message: edge_pb2.LinkMessage) -> bool:
        """Whether a peer's budget has room for what it sends; else it is told so of each session (B5)."""
        about: Sequence[edge_pb2.Frame | edge_pb2.OpenSession] = ()
        try:
            match message.WhichOneof("kind"):
                case "frames":
                    batch = message.frames
                    about = batch.frames
                    num_rows = batch.shape[0] if batch.shape else 0
                    self._budgets.take(owner, num_rows, len(batch.data), time.monotonic())
                case "open":
                    about = (message.open,)
                    self._budgets.check_open(owner, message.open.session, message.open.max_total_tokens)
        except ResourceExhaustedError as e:
            log.warning("refused what peer %d sent: %s", owner, e)
            for part in about[:MAX_SESSIONS_PER_BATCH]:
                self._tell(owner, write_failed(part.session, part.epoch, e))
            return False
        return True

    def stepped(self, output: StepOutput) -> None:
        """The engine's `on_output`."""
        self._perform(self._table.stepped(output), output.hidden)

    def _answered(self, peer: str, message: edge_pb2.LinkMessage) -> None:
        """A peer says something on our link to it: that it can't take a session's frames, or a probe is back."""
        if self._on_traffic:
            self._on_traffic("dialled", "received", message.ByteSize())
        match message.WhichOneof("kind"):
            case "failed":
                failed, error = message.failed, from_proto(message.failed.error)
                error.subject = error.subject or peer
                self._perform(self._table.refused(failed.session, failed.epoch, peer, error))
            case "echo":
                self.on_echo(peer, (time.monotonic_ns() - message.echo.sent_ns) / 1e9)

    def _lost(self, peer: str) -> None:
        self._perform(self._table.peer_lost(peer))

    def _perform(self, actions: Sequence[Action], hidden: torch.Tensor | None = None) -> None:
        for action in actions:
            match action:
                case Forward() if hidden is not None:
                    self._pushing.forward(action, hidden)
                case Keep() if hidden is not None:
                    self._pushing.keep(action, hidden)
                case Return():
                    self._return(action)
                case Deliver():
                    batch = edge_pb2.TokenBatch(tokens=[write_token(token) for token in action.tokens])
                    self._tell(action.owner, edge_pb2.LinkMessage(tokens=batch))
                case Replay() if not self._over:
                    self._tasks.create_task(self._replays.run(action))
                case Report():
                    self._tell(action.owner, write_report(action))
                case Fail():
                    where = "waits here for a later epoch" if action.open else "ends here"
                    log.warning("session %016x %s: %s", action.session, where, action.error)
                    failed = write_failed(action.session, action.epoch, action.error, is_open=action.open)
                    self._tell(action.owner, failed)
                case Release() if not self._over:  # a link may end later than the ring; the engine ends too then
                    self._parties.forget(action.session)
                    self._budgets.released(action.session)
                    self._desk.release(action)

    def _return(self, action: Return) -> None:
        tokens = torch.tensor(action.token_ids, dtype=torch.int32)  # [num_sessions]
        if action.peer.node_id != self._me.node_id:
            self._pushing.tokens(action.peer, action.rows, tokens)
            return
        for rows, token in zip(action.rows, tokens, strict=True):  # this node is head and tail
            self._feeding.submit(rows, token[None], None)

    def _tell(self, owner: int, message: edge_pb2.LinkMessage) -> None:
        if self._on_traffic:
            self._on_traffic("accepted", "sent", message.ByteSize())
        if not self._owners.tell(owner, message):
            self.detach(owner)
