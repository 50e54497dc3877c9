"""The line for KV: first come, first served; bounded in length and in time; one tries, the others wait."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from osai.coordinator.admission import Action, AdmissionQueue, QueueConfig, Refuse, Try

CONFIG = QueueConfig(max_queued=3, timeout_s=30.0, retry_s=0.5)


def queue(config: QueueConfig = CONFIG, jitter: float = 0.5) -> AdmissionQueue:
    return AdmissionQueue("me/small", config, lambda: jitter)


def full(num_waiting: int = 2) -> AdmissionQueue:
    """0 runs, 1 and so on wait; 1 was refused at 100."""
    it = queue()
    it.arrive(0, 100.0)
    it.arrive(1, 100.0)
    it.admitted(0)
    it.refused(1, "full", 100.0)
    for ticket in range(2, num_waiting + 1):
        assert it.arrive(ticket, 100.0) == []
    return it


def refused(actions: list[Action]) -> list[int]:
    assert all(isinstance(action, Refuse) for action in actions)
    return [action.ticket for action in actions]


def test_while_nobody_waits_everybody_tries_at_once() -> None:
    it = queue()
    assert [it.arrive(ticket, 0.0) for ticket in range(5)] == [[Try(ticket)] for ticket in range(5)]
    assert it.num_queued == 0


def test_those_that_find_no_room_line_up_by_arrival() -> None:
    it = queue()
    for ticket in range(3):
        it.arrive(ticket, 0.0)
    assert it.refused(2, "full", 0.1) == []
    assert it.refused(0, "full", 0.2) == []  # before 2, though it was told later
    assert it.admitted(1) == [Try(0)]
    assert it.admitted(0) == [Try(2)]
    assert it.num_queued == 1


def test_nobody_overtakes_the_head_of_the_line() -> None:
    it = full()
    assert it.arrive(3, 101.0) == []
    assert it.left(0) == [Try(1)]
    assert it.arrive(4, 101.0)  # the line is full
    assert it.admitted(1) == [Try(2)]  # perhaps there is room for two
    assert it.refused(2, "full", 101.0) == []


def test_a_session_that_ends_lets_the_head_try() -> None:
    assert full().left(0) == [Try(1)]


def test_a_session_that_ends_while_the_head_tries_lets_it_try_again() -> None:
    """What it left came too late for that try."""
    it = queue()
    for ticket in (0, 1, 2):
        it.arrive(ticket, 100.0)
    it.admitted(0)
    assert it.left(0) == []  # nobody waits yet
    assert it.refused(1, "full", 100.0) == [Try(1)]
    it.admitted(2)
    assert it.left(2) == []  # 1 is trying
    assert it.refused(1, "full", 100.0) == [Try(1)]
    assert it.refused(1, "full", 100.0) == []


def test_the_head_tries_now_and_then_as_other_coordinators_sessions_end_too() -> None:
    it = full()
    assert it.wake_s == 100.5
    assert it.tick(100.4) == []
    assert it.tick(100.5) == [Try(1)]
    assert it.wake_s == 130.0  # while it tries, only the others' deadlines are due
    assert it.tick(105.0) == []
    it.refused(1, "full", 105.0)
    assert it.wake_s == 105.5


@pytest.mark.parametrize(("jitter", "next_s"), [(0.0, 100.25), (0.999, 100.7495)])
def test_tries_of_two_coordinators_drift_apart(jitter: float, next_s: float) -> None:
    it = queue(jitter=jitter)
    it.arrive(0, 100.0)
    it.refused(0, "full", 100.0)
    assert it.wake_s == pytest.approx(next_s)


def test_a_full_line_refuses() -> None:
    it = full(num_waiting=3)
    (refuse,) = it.arrive(4, 101.0)
    assert isinstance(refuse, Refuse)
    assert refuse.ticket == 4
    assert "3 requests wait already; try again later, or add nodes" in refuse.error.message
    assert it.left(4) == []


def test_without_a_line_a_refusal_is_final() -> None:
    it = queue(QueueConfig(max_queued=0))
    assert it.arrive(0, 0.0) == [Try(0)]
    assert refused(it.refused(0, "full", 0.0)) == [0]


def test_who_waits_too_long_is_told_why() -> None:
    it = full()
    it.arrive(3, 110.0)
    assert it.tick(129.9) == [Try(1)]
    first, second = it.refused(1, "no KV blocks left", 130.0)
    assert (refused([first, second]), it.num_queued) == ([1, 2], 1)
    assert isinstance(first, Refuse)
    assert isinstance(second, Refuse)
    assert first.error.message == (
        "no KV came free for this session of me/small within 30 s (no KV blocks left); try again later, ask for fewer "
        "tokens, or add nodes"
    )
    assert "(others wait before it)" in second.error.message


def test_a_client_that_goes_leaves_its_place_to_the_next() -> None:
    it = full(num_waiting=3)
    assert it.left(2) == []
    assert it.left(1) == [Try(3)]  # the next may need less
    assert it.left(3) == []
    assert (it.num_queued, it.wake_s) == (0, float("inf"))
    assert it.arrive(9, 200.0) == [Try(9)]


class AnyHistory(RuleBasedStateMachine):
    """A stage with room for some sessions, requests of one size that come, go, and end."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.it = queue()
        self.next_ticket = 0
        self.room = 2
        self.came_s: dict[int, float] = {}
        self.trying: set[int] = set()
        self.waiting: set[int] = set()
        self.open: set[int] = set()

    def did(self, actions: list[Action]) -> None:
        for action in actions:
            self.waiting.remove(action.ticket)
            if isinstance(action, Try):
                assert all(action.ticket < other for other in self.waiting)  # nobody overtakes
                self.trying.add(action.ticket)
            else:
                assert self.now_s - self.came_s[action.ticket] >= 30.0 or "3 requests wait" in action.error.message
                self.did(self.it.left(action.ticket))

    @rule()
    def arrive(self) -> None:
        self.came_s[self.next_ticket] = self.now_s
        self.waiting.add(self.next_ticket)
        self.did(self.it.arrive(self.next_ticket, self.now_s))
        self.next_ticket += 1

    @precondition(lambda self: self.trying)
    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.trying)))
        self.trying.remove(ticket)
        if len(self.open) < self.room:
            self.open.add(ticket)
            self.did(self.it.admitted(ticket))
        else:
            self.waiting.add(ticket)
            self.did(self.it.refused(ticket, "full", self.now_s))

    @precondition(lambda self: self.came_s)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        there = self.trying | self.waiting | self.open
        if there:
            ticket = data.draw(st.sampled_from(sorted(there)))
            for group in (self.trying, self.waiting, self.open):
                group.discard(ticket)
            self.did(self.it.left(ticket))

    @rule(later_s=st.sampled_from([0.125, 0.625, 10.0, 31.0]))
    def tick(self, later_s: float) -> None:
        self.now_s += later_s
        due_s = self.it.wake_s
        actions = self.it.tick(self.now_s)
        assert bool(actions) == (self.now_s >= due_s)  # no wake is missed, none is for nothing
        self.did(actions)
        assert all(self.now_s - self.came_s[ticket] < 30.0 for ticket in self.waiting)  # bounded in time

    @invariant()
    def bounded_in_length(self) -> None:
        assert len(self.waiting) <= self.it.num_queued <= 3

    @invariant()
    def somebody_is_always_to_try_next(self) -> None:
        assert not self.waiting or self.trying or self.it.wake_s < float("inf")

    def teardown(self) -> None:
        """Whoever stays is let in or refused in the end."""
        while self.trying or self.waiting:
            for ticket in sorted(self.trying):
                self.trying.remove(ticket)
                self.waiting.add(ticket)
                self.did(self.it.refused(ticket, "full", self.now_s))
            if self.waiting:
                assert self.it.wake_s < float("inf")
                self.now_s = max(self.now_s, self.it.wake_s)
                self.did(self.it.tick(self.now_s))
        assert self.it.num_queued == 0


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=200, stateful_step_count=30)
