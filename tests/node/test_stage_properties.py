"""Random interleavings of what can happen to the sessions of a stage, and what the stage pushes for them.

A row is pushed on a way (a session's in one epoch to the successor, or to one standby) in order, each once, and
only in the epoch that was asked for last, once that has begun, for a session that has an owner.
"""

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from node.stage_requests import NEXT, SPARE, request, table
from osai.core.errors import AssignmentError, UnavailableError, UnknownSessionError
from osai.core.frames import FrameShape
from osai.node.engine.api import Rows, StepOutput
from osai.node.stages.journal import Journal
from osai.node.stages.stage import Action, Fail, FollowRequest, Forward, Keep, Peer, Release, Replay, ResumeRequest
from osai.proto import common_pb2

SESSIONS = st.integers(1, 2)
OWNERS = st.integers(7, 8)
MAX_TOTAL, ROW_BYTES, JOURNAL_ROWS = 40, 8, 60
SHAPE = FrameShape(dtype=common_pb2.DTYPE_BFLOAT16, hidden_size=4)


def content(session: int, position: int) -> bytes:
    return bytes([session]) * 4 + position.to_bytes(4, "big")


@dataclass
class Followed:
    """What a peer must get next."""

    peer: Peer
    next_row: int | None  # None: whatever comes first


@dataclass
class Known:
    """A session as a coordinator and an engine see it."""

    epoch: int
    owner: int | None
    begun: bool
    next_position: int
    successor: Followed | None
    follower: Followed | None = None
    waiting: deque[Rows] = field(default_factory=deque)  # at the engine
    fed: int | None = None  # the next row of this epoch that the predecessor pushes


class StageMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.journal = table(), Journal(JOURNAL_ROWS * ROW_BYTES)
        self.open: dict[int, Known] = {}
        self.epochs: dict[int, int] = {}
        self.in_hand: list[tuple[Rows, ...]] = []
        self.replays: list[Replay] = []
        self.now_s = 0.0

    # What the shell does with actions.

    def perform(self, actions: list[Action], packed: Sequence[tuple[int, int]] = ()) -> None:
        for action in actions:
            if isinstance(action, Keep):
                for rows, start in zip(action.rows, action.starts, strict=True):
                    at = packed[start : start + rows.count]
                    assert list(at) == positions(rows)
                    data = b"".join(content(*place) for place in at)
                    self.journal.append(rows.session, rows.position, rows.count, memoryview(data), SHAPE)
            elif isinstance(action, Forward):
                at = [place for start, end in action.slices for place in packed[start:end]]
                assert at == [place for rows in action.rows for place in positions(rows)]
                for rows in action.rows:
                    self.pushed(action.peer, rows)
            elif isinstance(action, Replay):
                self.replays.append(action)
            elif isinstance(action, Release):
                self.open.pop(action.session, None)
                self.journal.drop(action.session)
            elif isinstance(action, Fail):
                self.told(action)

    def told(self, action: Fail) -> None:
        known = self.open[action.session]
        assert (action.owner, action.epoch) == (known.owner, known.epoch)
        if action.error.subject == SPARE.node_id:
            known.follower = None
        elif action.open:
            known.successor = None

    def pushed(self, peer: Peer, rows: Rows) -> None:
        known = self.open[rows.session]
        assert (rows.epoch, known.begun) == (known.epoch, True), "pushed outside of its epoch"
        assert known.owner is not None, "pushed for an orphan"
        way = known.successor if peer == NEXT else known.follower
        assert way is not None, "pushed to a peer that was lost"
        assert way.next_row in (None, rows.position), "out of order, or twice"
        way.next_row = rows.position + rows.count

    # Coordinators.

    @initialize()
    def open_all(self) -> None:
        for session in (1, 2):
            self.open_anew(session, 7, 1, 0)
            self.go_on(session, 4, 1)

    @rule(session=SESSIONS, count=st.integers(1, 3), num_steps=st.integers(1, 3))
    def go_on(self, session: int, count: int, num_steps: int) -> None:
        """What happens most: rows come, are run, and land, beside those of another session."""
        for _ in range(num_steps):
            self.frame(session, 0, 0, count)
            self.take_a_step([session, 3 - session])
            while self.in_hand:
                self.land(fails=False)

    @rule(session=SESSIONS, owner=OWNERS, num_known=st.none() | st.integers(8, 20))
    def a_step_comes_too_late(self, session: int, owner: int, num_known: int | None) -> None:
        """Its session went on in a later epoch meanwhile, or has lost its owner."""
        self.frame(session, 0, 0, 2)
        self.take_a_step([session])
        if num_known is None:
            self.lose_an_owner(owner)
        else:
            self.reroute(session, owner, num_known, 0, 0, follows=False)
        while self.in_hand:
            self.land(fails=False)

    @rule(session=SESSIONS, owner=OWNERS, num_known=st.integers(4, 12), back=st.integers(0, 3),
          push_back=st.integers(-3, 12), follows=st.booleans())  # fmt: skip
    def reroute(self, session: int, owner: int, num_known: int, back: int, push_back: int, follows: bool) -> None:
        self.resume(session, owner, num_known, refused=False)
        self.begin(session, back, push_back, follows)

    @rule(session=SESSIONS, owner=OWNERS, jump=st.integers(1, 2), cached=st.sampled_from([0, 0, 3]))
    def open_anew(self, session: int, owner: int, jump: int, cached: int) -> None:
        epoch = self.epochs.get(session, 0) + jump
        wish = request(session, epoch=epoch, max_total_tokens=MAX_TOTAL)
        if session in self.open:
            with contextlib.suppress(AssignmentError):
                self.table.open(wish, owner, "c")
                raise AssertionError("a session was opened twice")
            return
        self.table.open(wish, owner, "c")
        self.journal.drop(session)
        self.table.opened(session, cached, anew=True)
        self.epochs[session] = epoch
        known = Known(epoch, owner, begun=True, next_position=cached, successor=Followed(NEXT, None))
        self.open[session] = known

    @rule(session=SESSIONS, owner=OWNERS, num_known=st.integers(4, MAX_TOTAL), refused=st.booleans())
    def resume(self, session: int, owner: int, num_known: int, refused: bool) -> None:
        epoch = self.epochs[session] = self.epochs.get(session, 0) + 1
        wish = request(session, epoch=epoch, max_total_tokens=MAX_TOTAL, resume=True, num_known_tokens=num_known)
        position = self.table.open(wish, owner, "c").cut_to
        assert (position is not None) == (session in self.open)
        anew = position is None or refused
        if position is None or anew:
            position = 0
            self.journal.drop(session)
        else:
            assert position < num_known
            self.journal.cut(session, position)
        self.table.opened(session, position, anew=anew)
        self.open[session] = Known(epoch, owner, begun=False, next_position=position, successor=None)

    @rule(session=SESSIONS, back=st.integers(0, 6), push_back=st.integers(-4, 12), follows=st.booleans())
    def begin(self, session: int, back: int, push_back: int, follows: bool) -> None:
        known = self.open.get(session)
        if known is None or known.begun or known.owner is None:
            return
        position = max(0, known.next_position - back)
        push_from = max(self.journal.begin(session, position), position - push_back)
        follow = FollowRequest(session=session, epoch=known.epoch, follower=SPARE, follow_from=push_from)
        wish = ResumeRequest(
            session=session,
            epoch=known.epoch,
            position=position,
            push_from=push_from,
            follow=follow if follows else None,
        )
        assert self.table.begins(wish, known.owner)
        self.journal.cut(session, position)
        known.begun, known.next_position, known.fed = True, position, position
        known.successor = Followed(NEXT, push_from)
        known.follower = Followed(SPARE, push_from) if follows else None
        self.perform(self.table.begin(wish))
        assert not self.table.begins(wish, known.owner)

    @rule(session=SESSIONS, back=st.integers(-3, 8), stops=st.booleans())
    def follow(self, session: int, back: int, stops: bool) -> None:
        known = self.open.get(session)
        if known is None or known.owner is None:
            return
        follow_from = max(0, known.next_position - back)
        peer = None if stops else SPARE
        wish = FollowRequest(session=session, epoch=known.epoch, follower=peer, follow_from=follow_from)
        known.follower = None if stops or known.successor is None else Followed(SPARE, follow_from)
        self.perform(self.table.follow(wish, known.owner))

    @rule(session=SESSIONS, behind=st.integers(0, 2))
    def close(self, session: int, behind: int) -> None:
        epoch = max(1, self.epochs.get(session, 1) - behind)
        known = self.open.get(session)
        released = self.table.close(session, (), epoch)
        assert bool(released) == (known is not None and epoch >= known.epoch)
        self.perform(list(released))

    # Frames and steps.

    @rule(session=SESSIONS, age=st.sampled_from([0, 0, 0, 1, 2]), shift=st.sampled_from([0, 0, 0, -1, -4]),
          count=st.integers(1, 5))  # fmt: skip
    def frame(self, session: int, age: int, shift: int, count: int) -> None:
        known = self.open.get(session)
        epoch = self.epochs.get(session, 0) - age
        if known is None:
            with contextlib.suppress(UnknownSessionError):
                assert self.table.span_of(Rows(session=session, epoch=epoch, position=0, count=1)) is None
            return
        due = known.next_position if known.fed is None else known.fed
        position = max(0, due + shift)
        rows = Rows(session=session, epoch=epoch, position=position, count=count)
        if position + count > MAX_TOTAL:
            return
        verdict = self.table.take(rows)
        lives = epoch == known.epoch and known.owner is not None
        assert (self.table.span_of(rows) is not None) == lives
        if not lives:
            assert verdict == "drop"
        elif not known.begun:
            assert verdict == "hold"
        elif known.fed is not None and position < due:
            assert verdict == "drop", "rows came twice"
        else:
            assert verdict == "run"
            known.fed = known.next_position = position + count
            known.waiting.append(rows)

    @rule(sessions=st.lists(SESSIONS, min_size=1, unique=True))
    def take_a_step(self, sessions: list[int]) -> None:
        parts = [self.open[s].waiting.popleft() for s in sessions if s in self.open and self.open[s].waiting]
        if parts:
            self.in_hand.append(tuple(parts))

    @precondition(lambda self: self.in_hand)
    @rule(fails=st.booleans())
    def land(self, fails: bool) -> None:
        """The steps of a span land in their order; none is spared the table because its session was cut."""
        parts = self.in_hand.pop(0)
        current = [p for p in parts if p.session in self.open and self.open[p.session].epoch == p.epoch]
        failed = current[:1] if fails and len(current) > 1 else []
        good = tuple(part for part in parts if part not in failed)
        output = StepOutput(
            span="m", rows=good, hidden=None, failed=tuple((part, UnavailableError("no")) for part in failed)
        )
        self.perform(self.table.stepped(output), [place for part in good for place in positions(part)])
        assert all(part.session not in self.open for part in failed)

    @precondition(lambda self: self.replays)
    @rule(which=st.integers(0, 3), max_rows=st.integers(1, 4))
    def replay_some(self, which: int, max_rows: int) -> None:
        replay = self.replays[which % len(self.replays)]
        found = self.table.next_replay(replay, max_rows)
        if found is None:
            assert not self.table.is_replaying(replay)
            self.replays.remove(replay)
            return
        peer, rows = found
        data = self.journal.read(rows.session, rows.position, rows.position + rows.count)
        if data is None:
            self.replays.remove(replay)
            self.perform(self.table.cannot_replay(replay))
            assert not self.table.is_replaying(replay)
            return
        assert data == b"".join(content(*place) for place in positions(rows))
        self.pushed(peer, rows)

    # Losses.

    @rule(owner=OWNERS)
    def lose_an_owner(self, owner: int) -> None:
        self.table.owner_lost(owner, self.now_s)
        for known in self.open.values():
            if known.owner == owner:
                known.owner = None

    @rule(peer=st.sampled_from([NEXT, SPARE]))
    def lose_a_peer(self, peer: Peer) -> None:
        self.perform(self.table.peer_lost(peer.node_id))
        for known in self.open.values():
            if peer == NEXT:
                known.successor = None
            else:
                known.follower = None

    @rule(after_s=st.sampled_from([1.0, 30.0]))
    def tick(self, after_s: float) -> None:
        self.now_s += after_s
        owned = {session for session, known in self.open.items() if known.owner is not None}
        self.perform(self.table.tick(self.now_s))
        assert owned <= set(self.open)

    @rule()
    def need_room(self) -> None:
        orphans = [session for session, known in self.open.items() if known.owner is None]
        released = self.table.evict_orphan("m")
        assert len(released) == min(1, len(orphans))
        self.perform(list(released))


def positions(rows: Rows) -> list[tuple[int, int]]:
    return [(rows.session, rows.position + i) for i in range(rows.count)]


TestStage = StageMachine.TestCase
TestStage.settings = settings(max_examples=200, stateful_step_count=60)
