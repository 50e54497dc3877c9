"""The sessions that cross this node, and what follows from each event. Pure: no I/O, no clock, no tensors.

The shell (osai.node.ring) feeds it what arrives and carries out the actions that it returns. How a session survives
the loss of a stage is told in docs/architecture.md.
"""

from typing import Literal

from osai.core.errors import OsaiError, UnavailableError
from osai.core.prefix import BLOCK_TOKENS
from osai.node.engine.api import Rows, StepOutput
from osai.node.stages import epochs as stage_epochs
from osai.node.stages import flow as stage_flow
from osai.node.stages import ways as stage_ways
from osai.node.stages.book import SessionBook
from osai.node.stages.checks import check_epoch, check_span
from osai.node.stages.sessions import spec_of
from osai.node.stages.stage import (
    Action,
    FollowRequest,
    HostedSpan,
    Opening,
    OpenRequest,
    Peer,
    Release,
    Replay,
    Report,
    ResumeRequest,
)

ORPHAN_S = 60.0  # without an owner: enough for a client to find another coordinator, or for one to be restarted


class StageTable:
    """Every session that is open on this node, whichever span it uses."""

    def __init__(self) -> None:
        self._spans: dict[str, HostedSpan] = {}
        self._sessions = SessionBook()

    @property
    def num_sessions(self) -> int:
        """Sessions open now that have an owner."""
        return sum(entry.owner is not None for entry in self._sessions.values())

    def host(self, span: HostedSpan) -> None:
        """Serve a span from now on."""
        self._spans[span.key] = span

    def withdraw(self, key: str) -> list[Action]:
        """Serve a span no longer: its sessions end here."""
        span = self._spans.pop(key, None)
        hit = [session for session, entry in self._sessions.items() if entry.span.key == key]
        error = UnavailableError(f"this node no longer serves layers {span.layers if span else ''} of {key}")
        return [action for session in hit for action in self.fail(session, error)]

    def open(self, request: OpenRequest, owner: int, scope: str) -> Opening:
        """Take a session, or a later epoch of one that is here; the caller lets the engine do so too.

        It calls `opened` then, or `fail`.

        Args:
            request: what the coordinator asks for.
            owner: number of the link it came by.
            scope: whose sessions may share KV with it.

        Raises:
            InvalidRequestError: if the pipeline is said to have more stages than the model has layers.
            AssignmentError: if this node does not serve that span of those weights, or the epoch has been overtaken.
        """
        span, old = check_span(request, self._spans.get(request.model_id)), self._sessions.get(request.session)
        check_epoch(request, old, self._sessions.closed_epoch(request.session) or 0)
        self._sessions.enter(stage_epochs.entered(request, span, owner, scope, old))
        cut_to = min(old.landed, request.num_known - 1) if old else None
        return Opening(spec=spec_of(request, span, scope), cut_to=cut_to)

    def opened(self, session: int, position: int, *, anew: bool) -> None:
        """The engine has the session's rows before `position`; `anew`: whatever was here of it before is gone."""
        entry = self._sessions[session]
        entry.landed = entry.reported = position
        if anew:
            entry.scope = entry.owner_scope

    def begins(self, request: ResumeRequest, owner: int) -> bool:
        """Whether an epoch may begin, once engine and journal are cut to its position; False: it has been overtaken.

        Raises:
            UnknownSessionError: if the session is not open.
            InvalidRequestError: if rows would be missing.
        """
        return stage_epochs.begins(self._sessions.get_open(request.session), request, owner)

    def begin(self, request: ResumeRequest) -> list[Action]:
        """An epoch begins, see `begins`: what the successor lacks is replayed, and rows that come are run."""
        return stage_epochs.begin(self._sessions[request.session], request)

    def follow(self, request: FollowRequest, owner: int) -> list[Action]:
        """Push a session's rows to a standby of the successor too, from those in the journal on.

        Raises:
            UnknownSessionError: if the session is not open.
        """
        entry = self._sessions.get_open(request.session)
        current = entry.owner == owner and entry.epoch == request.epoch
        return stage_ways.follow(entry, request) if current else []

    def span_of(self, rows: Rows) -> HostedSpan | None:
        """The span that a frame is for; None where it is to be dropped (of a closed session, an orphan, another epoch).

        Raises:
            UnknownSessionError: if the session was never open here.
        """
        if self._sessions.closed_epoch(rows.session) is not None:
            return None
        entry = self._sessions.get_open(rows.session)
        return entry.span if rows.epoch == entry.request.epoch and entry.owner is not None else None

    def take(self, rows: Rows) -> Literal["run", "hold", "drop"]:
        """What to do with rows that have come: hold them until the epoch begins, drop what came before in this epoch.

        A gap is the engine's to refuse.
        """
        return stage_epochs.take(self._sessions.get(rows.session), rows)

    def untake(self, rows: Rows) -> None:
        """Rows that `take` has just let run were refused: they have not come, and the right ones still may (B4)."""
        entry = self._sessions.get_current(rows.session, rows.epoch)
        if entry is not None:
            entry.landed, entry.due = entry.before

    def stepped(self, output: StepOutput) -> list[Action]:
        """What follows from one step of the engine; rows of sessions closed meanwhile are left out."""
        failed = [action for rows, error in output.failed for action in self.fail(rows.session, error)]
        drawn = stage_flow.tokens(self._sessions, output.sampled) if output.sampled else []
        return failed + drawn + stage_flow.landed(self._sessions, output.rows)

    def next_replay(self, replay: Replay, max_rows: int) -> tuple[Peer, Rows] | None:
        """The next rows that are to be pushed; None once all have been: rows are pushed as they land, then."""
        entry = self._sessions.get_current(replay.session, replay.epoch)
        return stage_ways.next_rows(entry, replay, max_rows) if entry else None

    def is_replaying(self, replay: Replay) -> bool:
        """Whether a replay has not caught up yet, and its way is still there."""
        entry = self._sessions.get_current(replay.session, replay.epoch)
        return entry is not None and stage_ways.is_replaying(entry, replay)

    def cannot_replay(self, replay: Replay) -> list[Action]:
        """The journal does not hold what `next_replay` has named."""
        entry = self._sessions.get_current(replay.session, replay.epoch)
        return stage_ways.cannot_replay(entry, replay) if entry else []

    def fail(self, session: int, error: OsaiError) -> list[Action]:
        """End a session here and tell its owner; nothing where it is not open."""
        entry = self._sessions.get(session)
        if entry is None:
            return []
        return [*stage_ways.told(entry, error, is_open=False), *self.close(session)]

    def refused(self, session: int, epoch: int, node_id: str, error: OsaiError) -> list[Action]:
        """A peer can't take a session's rows; nothing where they do not go there any more."""
        entry = self._sessions.get_current(session, epoch)
        return stage_ways.lost_to(entry, node_id, error) if entry else []

    def num_nameable_blocks(self, session: int, owner: int) -> int:
        """How many full blocks of a session's KV `owner` may name for later sessions.

        A name is a claim that nobody can check: none of another's sessions, therefore, nor of one that was taken over.
        """
        entry = self._sessions.get(session)
        if entry is None or entry.owner != owner or entry.scope != entry.owner_scope:
            return 0
        return entry.request.max_total_tokens // BLOCK_TOKENS

    def close(self, session: int, block_hashes: tuple[bytes, ...] = (), epoch: int = 0) -> list[Release]:
        """Forget a session; nothing where it is not open, or in a later epoch than `epoch` (0: any)."""
        entry = self._sessions.get(session)
        if entry is None or (epoch and epoch < entry.epoch):
            return []
        self._sessions.remove(session, max(epoch, entry.epoch))
        return [Release(session=session, block_hashes=block_hashes)]

    def owner_lost(self, owner: int, now_s: float) -> None:
        """The coordinator's link broke: its sessions are orphans. Rows that the engine has run out, and are kept."""
        for entry in self._sessions.values():
            if entry.owner == owner:
                entry.owner, entry.orphaned_s = None, now_s

    def evict_orphan(self, key: str) -> list[Release]:
        """End the oldest orphan of a span, whose KV is needed; nothing where there is none."""
        orphans = [(e.orphaned_s, s) for s, e in self._sessions.items() if e.owner is None and e.span.key == key]
        return self.close(min(orphans)[1]) if orphans else []

    def tick(self, now_s: float) -> list[Action]:
        """Time has passed: orphans that nobody has come for end, standbys report."""
        actions: list[Action] = []
        for session, entry in list(self._sessions.items()):
            if entry.owner is None:
                actions += self.close(session) if now_s - entry.orphaned_s >= ORPHAN_S else []
            elif entry.request.follow and entry.landed != entry.reported:
                entry.reported = entry.landed
                actions.append(Report(owner=entry.owner, session=session, epoch=entry.epoch, position=entry.landed))
        return actions

    def peer_lost(self, node_id: str) -> list[Action]:
        """The link to a peer broke: rows that go there go nowhere until a later epoch; what is here stays."""
        error = UnavailableError(f"node {node_id} was lost; try again", subject=node_id)
        return [action for entry in self._sessions.values() for action in stage_ways.lost_to(entry, node_id, error)]
