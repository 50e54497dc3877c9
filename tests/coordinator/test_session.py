"""One session's supervision: whatever happens, it ends once, closes first, and never emits out of order."""

import math
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator.builders import stage
from osai.coordinator.session import (
    Action,
    Close,
    Emit,
    End,
    Open,
    SendPrompt,
    Session,
    SupervisionConfig,
    TokenEvent,
)
from osai.core.errors import (
    CancelledError,
    DeadlineExceededError,
    OsaiError,
    PeerError,
    ResourceExhaustedError,
    UnavailableError,
)

PIPELINE = (stage("a", 0, 2), stage("b", 2, 4), stage("c", 4, 6))
CONFIG = SupervisionConfig(open_s=10, first_token_s=30, prompt_token_s=0.5, next_token_s=20)
TOKEN = TokenEvent(epoch=1, index=0, token_id=42)


def session() -> Session:
    return Session(PIPELINE, num_prompt_tokens=4, config=CONFIG, now_s=100.0)


def running(num_tokens: int = 0) -> Session:
    """A session that is open, after some tokens, all at 101."""
    it = session()
    it.start()
    for name in "abc":
        it.opened(name, 1, 101.0)
    for i in range(num_tokens):
        it.token("c", replace(TOKEN, index=i), 101.0)
    return it


def ended(actions: list[Action]) -> OsaiError | str:
    """What the session ended with; the stages are closed before."""
    assert isinstance(actions[-2], Close)
    assert isinstance(actions[-1], End)
    return actions[-1].error or actions[-1].reason


def test_a_generation_from_open_to_length() -> None:
    it = session()
    assert it.start() == [Open()]
    assert it.deadline_s == 110.0
    assert it.opened("c", 1, 101.0) == []
    assert it.opened("a", 1, 102.0) == []
    assert it.deadline_s == 110.0
    assert it.opened("b", 1, 103.0) == [SendPrompt()]
    assert it.deadline_s == 103.0 + 30 + 4 * 0.5
    assert it.token("c", TOKEN, 104.0) == [Emit(TOKEN)]
    assert it.deadline_s == 124.0
    last = replace(TOKEN, index=1, finish="length")
    assert it.token("c", last, 105.0) == [Emit(last), Close(keep_kv=True), End(reason="length")]
    assert it.num_tokens == 2


def test_a_stage_that_says_twice_that_it_is_open_counts_once() -> None:
    it = session()
    assert [it.opened("a", 1, 101.0), it.opened("a", 1, 101.0), it.opened("b", 1, 101.0)] == [[], [], []]
    assert it.opened("stranger", 1, 101.0) == []
    assert it.opened("c", 1, 101.0) == [SendPrompt()]
    assert it.opened("c", 1, 109.0) == []
    assert it.deadline_s == 101.0 + 32


def long_session() -> Session:
    """40 tokens of prompt: two full blocks of 16 may be shared."""
    it = Session(PIPELINE, num_prompt_tokens=40, config=CONFIG, now_s=100.0)
    it.start()
    return it


@pytest.mark.parametrize(("cached", "least"), [((32, 16, 32), 16), ((32, 32, 32), 32), ((32, 0, 16), 0)])
def test_the_prompt_is_sent_from_the_least_that_all_stages_have(cached: tuple[int, int, int], least: int) -> None:
    it = long_session()
    actions = [it.opened(name, 1, 101.0, num) for name, num in zip("abc", cached, strict=True)]
    assert actions == [[], [], [SendPrompt(position=least)]]
    assert it.num_cached_tokens == least
    assert it.deadline_s == 101.0 + 30 + (40 - least) * 0.5  # only what is to be computed takes time


@pytest.mark.parametrize("claim", [48, 33, 8, 2**32 - 1])
def test_a_stage_that_claims_kv_that_nobody_asked_for_ends_the_session(claim: int) -> None:
    it = long_session()
    it.opened("a", 1, 101.0, 32)
    error = ended(it.opened("b", 1, 101.0, claim))
    assert isinstance(error, PeerError)
    assert error.subject == "b"
    assert f"claims the KV of {claim} prompt tokens" in error.message


def test_kv_is_kept_where_it_is_sound_and_complete() -> None:
    """After an error nobody knows what the stages have computed."""
    last = replace(TOKEN, index=2, finish="stop")
    assert Close(keep_kv=True) in running(2).token("c", last, 102.0)
    assert Close(keep_kv=True) in running(2).cancel()
    assert Close() in session().cancel()  # nothing was computed yet
    assert Close() in running(2).failed("b", 1, ResourceExhaustedError("full"))
    assert Close() in running(2).lost("b", UnavailableError("gone"))
    assert Close() in running(2).tick(999.0)
    assert Close() in running(2).token("c", replace(TOKEN, index=7), 102.0)


def test_only_the_tail_gives_tokens() -> None:
    it = running()
    assert it.token("b", TOKEN, 102.0) == []
    assert it.token("stranger", TOKEN, 102.0) == []
    assert it.token("c", TOKEN, 102.0) == [Emit(TOKEN)]


@pytest.mark.parametrize("index", [0, 1, 3, 2**31])
def test_a_gap_or_a_repetition_ends_the_session(index: int) -> None:
    error = ended(running(num_tokens=2).token("c", replace(TOKEN, index=index), 102.0))
    assert isinstance(error, PeerError)
    assert "where 2 was due" in error.message
    assert error.subject == "c"


def test_a_token_before_the_prompt_ends_the_session() -> None:
    """Its client would see it before the session has started."""
    it = session()
    it.start()
    it.opened("a", 1, 101.0)
    assert isinstance(ended(it.token("c", TOKEN, 102.0)), PeerError)


def test_words_of_another_epoch_are_dropped() -> None:
    it = session()
    assert it.opened("a", 2, 101.0) == []
    assert it.failed("a", 2, ResourceExhaustedError("full")) == []
    it = running()
    assert it.token("c", replace(TOKEN, epoch=0), 101.0) == []
    assert it.token("c", replace(TOKEN, epoch=2), 101.0) == []


def test_a_failure_of_a_stage_ends_the_session_with_its_reason() -> None:
    reason = ResourceExhaustedError("no KV blocks left", subject="b")
    assert running(3).failed("stranger", 1, reason) == []
    assert ended(running(3).failed("b", 1, reason)) is reason


def test_a_lost_stage_ends_the_session_as_unavailable() -> None:
    assert running().lost("stranger", UnavailableError("gone")) == []
    error = ended(running(3).lost("b", UnavailableError("reset by peer")))
    assert isinstance(error, UnavailableError)
    assert error.message == "node b was lost after 3 tokens; try again"
    assert str(error.__cause__) == "reset by peer"  # not for clients: it may hold the node's address
    assert error.subject == "b"


def test_cancelling_closes_the_stages() -> None:
    assert isinstance(ended(session().cancel()), CancelledError)
    assert isinstance(ended(running(2).cancel()), CancelledError)


def test_stages_that_do_not_open_in_time_are_named() -> None:
    it = session()
    it.start()
    it.opened("b", 1, 101.0)
    assert it.tick(109.9) == []
    error = ended(it.tick(110.0))
    assert isinstance(error, UnavailableError)
    assert (error.message, error.subject) == ("not opened in time by a, c", "a")


def test_silence_ends_the_session_by_the_deadline_that_fits() -> None:
    assert running().tick(132.9) == []
    first = ended(running().tick(133.0))
    assert isinstance(first, DeadlineExceededError)
    assert "after 0" in first.message
    assert running(3).tick(120.9) == []
    assert isinstance(ended(running(3).tick(121.0)), DeadlineExceededError)


NAMES = st.sampled_from(["a", "b", "c", "stranger"])
EPOCHS = st.sampled_from([1, 1, 1, 0, 2])


class AnyHistory(RuleBasedStateMachine):
    """Any events in any order, as confused or hostile stages may send them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.it = session()
        self.actions: list[Action] = self.it.start()
        self.opened_by: set[str] = set()

    def did(self, actions: list[Action], *, progress: bool, before_s: float) -> None:
        assert progress or self.it.deadline_s == before_s  # only progress moves the deadline
        self.actions += actions

    @property
    def over(self) -> bool:
        return any(isinstance(action, End) for action in self.actions)

    @rule(name=NAMES, epoch=EPOCHS, num_cached_tokens=st.sampled_from([0, 0, 0, 0, 16]))
    def opened(self, name: str, epoch: int, num_cached_tokens: int) -> None:
        before_s = self.it.deadline_s
        actions = self.it.opened(name, epoch, self.now_s, num_cached_tokens)
        if epoch == 1 and name != "stranger" and num_cached_tokens == 0:
            self.opened_by.add(name)
        self.did(actions, progress=SendPrompt() in actions, before_s=before_s)

    @rule(
        name=NAMES,
        epoch=EPOCHS,
        off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        finish=st.sampled_from([None, None, "stop", "length"]),
    )
    def token(self, name: str, epoch: int, off: int, finish: str | None) -> None:
        before_s = self.it.deadline_s
        event = TokenEvent(epoch=epoch, index=self.it.num_tokens + off, token_id=1, finish=finish)
        actions = self.it.token(name, event, self.now_s)
        self.did(actions, progress=Emit(event) in actions, before_s=before_s)

    @rule(name=NAMES, epoch=EPOCHS)
    def failed(self, name: str, epoch: int) -> None:
        before_s = self.it.deadline_s
        self.did(self.it.failed(name, epoch, ResourceExhaustedError("x")), progress=False, before_s=before_s)

    @rule(name=NAMES)
    def lost(self, name: str) -> None:
        before_s = self.it.deadline_s
        self.did(self.it.lost(name, UnavailableError("x")), progress=False, before_s=before_s)

    @rule()
    def cancel(self) -> None:
        before_s = self.it.deadline_s
        self.did(self.it.cancel(), progress=False, before_s=before_s)

    @rule(later_s=st.sampled_from([0.0, 1.0, 5.0, 25.0, 100.0]))
    def tick(self, later_s: float) -> None:
        self.now_s += later_s
        due, over, before_s = self.now_s >= self.it.deadline_s, self.over, self.it.deadline_s
        actions = self.it.tick(self.now_s)
        assert bool(actions) == (due and not over)
        self.did(actions, progress=False, before_s=before_s)

    @precondition(lambda self: self.over)
    @rule()
    def end_stays_the_end(self) -> None:
        assert self.it.cancel() == self.it.tick(math.inf) == self.it.lost("a", UnavailableError("x")) == []

    @invariant()
    def ends_once_and_closes_just_before(self) -> None:
        ends = [i for i, action in enumerate(self.actions) if isinstance(action, End)]
        closes = [i for i, action in enumerate(self.actions) if isinstance(action, Close)]
        assert ends in ([], [len(self.actions) - 1])
        assert closes == [i - 1 for i in ends]

    @invariant()
    def emits_in_order_and_after_the_prompt(self) -> None:
        emitted = [action.token.index for action in self.actions if isinstance(action, Emit)]
        assert emitted == list(range(len(emitted)))
        assert len(emitted) == self.it.num_tokens
        kinds = [type(action) for action in self.actions]
        assert kinds.count(SendPrompt) <= 1
        assert not emitted or kinds.index(SendPrompt) < kinds.index(Emit)
        assert SendPrompt not in kinds or self.opened_by == {"a", "b", "c"}


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
