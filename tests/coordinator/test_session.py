"""One session's first epoch, its tokens and its end: it ends once, closes first, and never emits out of order."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator.builders import stage
from coordinator.session_builders import (
    CONFIG,
    PIPELINE,
    SPARE,
    TOKEN,
    closed,
    ended,
    ids,
    opened,
    running,
    session,
    token,
)
from osai.coordinator.sessions.actions import (
    Action,
    Begin,
    Close,
    Emit,
    End,
    FindPipeline,
    FindStandby,
    Found,
    Open,
    OpenFollower,
    OpenKind,
    SendIds,
    TokenEvent,
)
from osai.coordinator.sessions.session import Session
from osai.core.errors import (
    CancelledError,
    DeadlineExceededError,
    NotCoveredError,
    PeerError,
    ResourceExhaustedError,
    UnavailableError,
)


def test_a_generation_from_open_to_length() -> None:
    it = session()
    assert it.start() == [Open(pipeline=PIPELINE, epoch=1, kind=OpenKind.NEW, num_prompt_tokens=4, num_known_tokens=4)]
    assert it.deadline_s == 110.0
    assert it.opened("c", opened(), 101.0) == []
    assert it.opened("a", opened(), 102.0) == []
    assert it.deadline_s == 110.0
    assert it.opened("b", opened(), 103.0) == [SendIds(stage=PIPELINE[0], epoch=1, position=0, end=4), Begin()]
    assert it.deadline_s == 103.0 + 30 + 4 * 0.5
    assert it.token("c", TOKEN, 104.0) == [Emit(TOKEN)]
    assert it.deadline_s == 114.0  # too few to know better
    last = token(1, finish="length")
    assert it.token("c", last, 105.0) == [
        Emit(last), Close(stages=PIPELINE, epoch=1, keep_kv=True), End(reason="length")
    ]  # fmt: skip
    assert it.num_tokens == 2
    assert it.deadline_s == math.inf


def test_a_stage_that_says_twice_that_it_is_open_counts_once() -> None:
    it = session()
    it.start()
    for name in ("a", "a", "b", "stranger"):
        assert it.opened(name, opened(), 101.0) == []
    assert len(it.opened("c", opened(), 101.0)) == 2
    assert it.opened("c", opened(), 109.0) == []
    assert it.deadline_s == 101.0 + 32


def long_session() -> Session:
    """40 tokens of prompt: two full blocks of 16 may be shared."""
    it = Session(PIPELINE, num_prompt_tokens=40, config=CONFIG, now_s=100.0)
    it.start()
    return it


@pytest.mark.parametrize(("cached", "least"), [((32, 16, 32), 16), ((32, 32, 32), 32), ((32, 0, 16), 0)])
def test_the_prompt_is_sent_from_the_least_that_all_stages_have(cached: tuple[int, int, int], least: int) -> None:
    it = long_session()
    first, second, third = (
        it.opened(name, opened(num_cached_tokens=num), 101.0) for name, num in zip("abc", cached, strict=True)
    )
    assert first == second == []
    assert ids(third) == [("a", least, 40)]
    assert it.num_cached_tokens == least
    assert it.deadline_s == 101.0 + 30 + (40 - least) * 0.5  # only what is to be computed takes time


@pytest.mark.parametrize("claim", [48, 33, 8, 2**32 - 1])
def test_a_stage_that_claims_kv_that_nobody_asked_for_ends_the_session(claim: int) -> None:
    it = long_session()
    it.opened("a", opened(num_cached_tokens=32), 101.0)
    error = ended(it.opened("b", opened(num_cached_tokens=claim), 101.0))
    assert isinstance(error, PeerError)
    assert error.subject == "b"
    assert f"claims the KV of {claim} prompt tokens" in error.message


def test_kv_is_kept_where_it_is_sound_and_complete() -> None:
    """After an error nobody knows what the stages have computed."""
    kept = {"a": True, "b": True, "c": True}
    assert closed(running(2).token("c", token(2, finish="stop"), 102.0)) == kept
    assert closed(running(2).cancel()) == kept
    it = session()
    it.start()
    none = {"a": False, "b": False, "c": False}
    assert closed(it.cancel()) == none  # nothing was computed yet
    assert closed(running(2).token("c", token(7), 102.0)) == none
    it = running(2)
    it.lost("b", UnavailableError("gone"), 102.0)
    assert closed(it.cancel()) == none


def test_only_the_tail_gives_tokens() -> None:
    it = running()
    assert it.token("b", TOKEN, 102.0) == []
    assert it.token("stranger", TOKEN, 102.0) == []
    assert it.token("c", TOKEN, 102.0) == [Emit(TOKEN)]


def test_a_token_that_comes_twice_is_dropped() -> None:
    it = running(num_tokens=2)
    assert it.token("c", token(0), 102.0) == it.token("c", token(1), 102.0) == []
    assert it.token("c", token(2), 102.0) == [Emit(token(2))]


@pytest.mark.parametrize("index", [3, 4, 2**31])
def test_a_gap_ends_the_session(index: int) -> None:
    error = ended(running(num_tokens=2).token("c", token(index), 102.0))
    assert isinstance(error, PeerError)
    assert "where 2 was due" in error.message
    assert error.subject == "c"


def test_a_token_before_the_prompt_ends_the_session() -> None:
    """Its client would see it before the session has started."""
    it = session()
    it.start()
    it.opened("a", opened(), 101.0)
    assert isinstance(ended(it.token("c", TOKEN, 102.0)), PeerError)


def test_words_of_another_epoch_are_dropped() -> None:
    it = session()
    it.start()
    assert it.opened("a", opened(2), 101.0) == []
    assert it.failed("a", 2, ResourceExhaustedError("full"), 101.0) == []
    it = running()
    assert it.token("c", token(0, epoch=0), 101.0) == []
    assert it.token("c", token(0, epoch=2), 101.0) == []


def test_a_new_session_that_a_stage_refuses_is_not_rerouted_here() -> None:
    """Nothing is lost yet: its generation tries elsewhere, or waits in line for KV."""
    reason = ResourceExhaustedError("no KV blocks left", subject="b")
    it = session()
    it.start()
    assert it.failed("stranger", 1, reason, 101.0) == []
    assert ended(it.failed("b", 1, reason, 101.0)) is reason
    it = session()
    it.start()
    assert it.lost("stranger", UnavailableError("gone"), 101.0) == []
    error = ended(it.lost("b", UnavailableError("reset by peer"), 101.0))
    assert isinstance(error, UnavailableError)
    assert (error.message, error.subject) == ("node b was lost", "b")
    assert str(error.__cause__) == "reset by peer"  # not for clients: it may hold the node's address


def test_cancelling_closes_the_stages() -> None:
    it = session()
    it.start()
    assert isinstance(ended(it.cancel()), CancelledError)
    assert isinstance(ended(running(2).cancel()), CancelledError)


def test_stages_that_do_not_open_in_time_are_named() -> None:
    it = session()
    it.start()
    it.opened("b", opened(), 101.0)
    assert it.tick(109.9) == []
    error = ended(it.tick(110.0))
    assert isinstance(error, UnavailableError)
    assert (error.message, error.subject) == ("not opened in time by a, c", "a")


NAMES = st.sampled_from(["a", "b", "c", "spare", "stranger", "a2", "b2"])
EPOCHS = st.sampled_from([0, 0, 0, 0, -1, 1])  # off


class AnyHistory(RuleBasedStateMachine):
    """Any events in any order, as confused or hostile stages may send them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.num_looks = 1
        self.it = session(with_standbys=True)
        self.actions: list[Action] = []
        self.did(self.it.start())

    def did(self, actions: list[Action]) -> None:
        assert not self.over or actions == []
        self.actions += actions
        if any(isinstance(action, FindPipeline) for action in actions):
            self.did(self.find())
        for action in actions:
            if isinstance(action, FindStandby):
                follower = stage(f"{action.stage.node_id}2", action.stage.span.start, action.stage.span.end)
                self.did(self.it.standby_found(action.stage, follower if self.num_looks % 2 else None, self.now_s))

    def find(self) -> list[Action]:
        self.num_looks += 1
        match self.num_looks % 4:
            case 0:
                return self.it.no_pipeline(NotCoveredError("a gap"), self.now_s)
            case 1:
                return self.it.pipeline_found(Found(pipeline=SPARE), self.now_s)
            case 2:
                return self.it.pipeline_found(Found(pipeline=PIPELINE), self.now_s)
        return self.it.pipeline_found(Found(pipeline=PIPELINE, resumable=False), self.now_s)

    @property
    def over(self) -> bool:
        return any(isinstance(action, End) for action in self.actions)

    @rule(name=NAMES, off=EPOCHS, num_cached_tokens=st.sampled_from([0, 0, 0, 0, 16]), position=st.integers(0, 4))
    def opened(self, name: str, off: int, num_cached_tokens: int, position: int) -> None:
        answer = opened(self.it.epoch + off, num_cached_tokens=num_cached_tokens, position=position)
        self.did(self.it.opened(name, answer, self.now_s))

    @rule(position=st.integers(0, 3))
    def all_open(self, position: int) -> None:
        for each in self.it.pipeline:
            self.did(self.it.opened(each.node_id, opened(self.it.epoch, position=position), self.now_s))

    @rule(
        name=st.sampled_from(["c", "c", "c", "b"]),
        off_epoch=EPOCHS,
        off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        finish=st.sampled_from([None, None, None, "stop", "length"]),
    )
    def token(self, name: str, off_epoch: int, off: int, finish: str | None) -> None:
        index = max(0, self.it.num_tokens + off)
        event = TokenEvent(epoch=self.it.epoch + off_epoch, index=index, token_id=1, finish=finish)
        self.did(self.it.token(name, event, self.now_s))

    @rule(name=NAMES, off=EPOCHS, is_open=st.booleans(), subject=st.sampled_from(["", "a", "b", "c", "spare", "b2"]))
    def failed(self, name: str, off: int, subject: str, *, is_open: bool) -> None:
        error = ResourceExhaustedError("x", subject=subject)
        self.did(self.it.failed(name, self.it.epoch + off, error, self.now_s, is_open=is_open))

    @rule(name=NAMES)
    def lost(self, name: str) -> None:
        self.did(self.it.lost(name, UnavailableError("x"), self.now_s))

    @rule(suspects=st.frozensets(NAMES, max_size=2), draining=st.frozensets(NAMES, max_size=2))
    def watched(self, suspects: frozenset[str], draining: frozenset[str]) -> None:
        self.did(self.it.watched(suspects, draining, self.now_s))

    @rule()
    def cancel(self) -> None:
        self.did(self.it.cancel())

    @rule(later_s=st.sampled_from([0.0, 1.0, 5.0, 25.0, 100.0]))
    def tick(self, later_s: float) -> None:
        self.now_s += later_s
        due = self.now_s >= self.it.deadline_s
        actions = self.it.tick(self.now_s)
        assert due or actions == []
        self.did(actions)

    @precondition(lambda self: self.over)
    @rule()
    def end_stays_the_end(self) -> None:
        gone = UnavailableError("x")
        assert self.it.cancel() == self.it.tick(math.inf) == self.it.lost("a", gone, self.now_s) == []

    @invariant()
    def there_is_always_a_deadline(self) -> None:
        assert self.over == (self.it.deadline_s == math.inf)

    @invariant()
    def ends_once_and_closes_before(self) -> None:
        ends = [i for i, action in enumerate(self.actions) if isinstance(action, End)]
        assert ends in ([], [len(self.actions) - 1])
        if ends:
            assert isinstance(self.actions[-2], Close)
            open_on: set[str] = set()
            for action in self.actions:
                if isinstance(action, Open):
                    open_on |= {each.node_id for each in action.pipeline}
                if isinstance(action, OpenFollower):
                    open_on.add(action.follower.node_id)
                if isinstance(action, Close):
                    open_on -= {each.node_id for each in action.stages}
            assert open_on == set()

    @invariant()
    def emits_in_order_and_once_begun(self) -> None:
        emitted = [action.token.index for action in self.actions if isinstance(action, Emit)]
        assert emitted == list(range(len(emitted)))
        assert len(emitted) == self.it.num_tokens
        kinds = [type(action) for action in self.actions]
        assert kinds.count(Begin) <= 1
        assert not emitted or kinds.index(SendIds) < kinds.index(Begin) < kinds.index(Emit)

    @invariant()
    def epochs_rise_one_by_one(self) -> None:
        epochs = [action.epoch for action in self.actions if isinstance(action, Open)]
        assert epochs == list(range(1, len(epochs) + 1))


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=200, stateful_step_count=30)


def test_silence_brings_new_epochs_and_then_ends_the_session() -> None:
    it, now_s = running(), 101.0
    for _ in range(CONFIG.max_nudges):
        now_s = it.deadline_s
        assert isinstance(it.tick(now_s)[0], FindPipeline)
        it.pipeline_found(Found(pipeline=PIPELINE), now_s)
        for name in "abc":
            it.opened(name, opened(it.epoch, position=3), now_s)
    error = ended(it.tick(it.deadline_s))
    assert isinstance(error, DeadlineExceededError)
    assert "after 0" in error.message
