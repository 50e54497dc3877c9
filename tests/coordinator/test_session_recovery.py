"""What becomes of a session in each kind of bad luck: who is asked for, who goes on where, and when it gives up."""

import math

import pytest

from coordinator.builders import stage
from coordinator.session_builders import (
    CONFIG,
    NUM_PROMPT,
    PIPELINE,
    SPARE,
    closed,
    ended,
    ids,
    looked,
    opened,
    reopened,
    running,
    starts,
    token,
)
from osai.coordinator.api import Rerouted, StageView, Waiting
from osai.coordinator.sessions.actions import Begin, Close, Emit, End, FindPipeline, Found, Open, OpenKind
from osai.coordinator.sessions.session import Session
from osai.core.errors import (
    AssignmentError,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    NotCoveredError,
    OsaiError,
    PeerError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownSessionError,
)

GONE = UnavailableError("reset by peer")


def test_a_lost_stage_is_replaced_and_rebuilt_from_its_predecessors_journal() -> None:
    it = running(num_tokens=3)  # 7 tokens are known; the row of the last is run again
    detour = looked(it.lost("b", GONE, 105.0)).detour
    assert detour.kept == {stage.node_id: stage.span for stage in PIPELINE}
    assert detour.suspects == {"b"}  # it may be back
    actions = reopened(it, SPARE, 105.5, (6, 0), (0, 0), (6, 6))
    assert starts(actions) == {"c": (6, 6), "spare": (0, 6), "a": (6, 0)}
    assert ids(actions) == [("a", 6, 7)]
    assert closed(actions) == {"b": False}  # should it come back
    assert Rerouted(pipeline=SPARE, reason="node b was lost", pause_s=0.5) in actions
    assert (it.epoch, it.num_recoveries) == (2, 1)
    assert it.token("c", token(3, epoch=1), 106.0) == []  # the old epoch's: it is drawn again
    assert it.token("c", token(3, epoch=2), 106.0) == [Emit(token(3, epoch=2))]


def test_a_lost_head_is_rebuilt_from_the_ids() -> None:
    it = running(num_tokens=3)
    it.lost("a", GONE, 105.0)
    pipeline = (stage("spare", 0, 2), *PIPELINE[1:])
    actions = reopened(it, pipeline, 105.0, (0, 0), (6, 0), (6, 6))
    assert starts(actions) == {"c": (6, 6), "b": (6, 6), "spare": (0, 6)}
    assert ids(actions) == [("spare", 0, 7)]


def test_a_lost_tail_is_rebuilt_from_its_predecessors_journal() -> None:
    it = running(num_tokens=3)
    it.lost("c", GONE, 105.0)
    pipeline = (*PIPELINE[:2], stage("spare", 4, 6))
    actions = reopened(it, pipeline, 105.0, (6, 0), (6, 0), (0, 0))
    assert starts(actions) == {"spare": (0, 0), "b": (6, 0), "a": (6, 6)}
    assert it.token("spare", token(3, epoch=2), 106.0) == [Emit(token(3, epoch=2))]


def test_two_neighbours_at_once() -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    (first,) = it.pipeline_found(Found(pipeline=SPARE), 105.0)
    assert isinstance(first, Open)
    looked(it.lost("c", GONE, 105.01))  # while the first is being opened
    pipeline = (*SPARE[:2], stage("spare2", 4, 6))
    actions = reopened(it, pipeline, 105.02, (6, 0), (0, 0), (0, 0))
    assert starts(actions) == {"spare2": (0, 0), "spare": (0, 0), "a": (6, 0)}
    assert it.epoch == 3
    assert it.num_recoveries == 1
    assert sorted(closed(actions)) == ["b", "c"]


def test_a_journal_that_is_gone_leads_back_to_the_ids() -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    actions = reopened(it, SPARE, 105.0, (6, 6), (0, 0), (6, 6))
    assert starts(actions) == {"c": (6, 6), "spare": (0, 6), "a": (0, 0)}
    assert ids(actions) == [("a", 0, 7)]


def test_a_broken_edge_is_avoided_not_its_nodes() -> None:
    it = running(num_tokens=3)
    error = UnavailableError("node c was lost; try again", subject="c")
    detour = looked(it.failed("b", 1, error, 105.0, is_open=True)).detour
    assert detour.avoid_edges == {("b", "c")}
    assert (detour.avoid, detour.suspects) == (frozenset(), frozenset())
    assert "b" in detour.kept
    assert looked(it.no_pipeline(None, 105.0)).detour.avoid_edges == frozenset()  # it may be mended
    reopened(it, PIPELINE, 105.0, (6, 0), (6, 0), (6, 6))
    assert looked(it.failed("b", 2, error, 105.1, is_open=True)).detour.avoid_edges == {("b", "c")}
    (waiting,) = it.no_pipeline(None, 105.1)
    assert isinstance(waiting, Waiting)
    assert looked(it.tick(105.6)).detour.avoid_edges == {("b", "c")}
    assert looked(it.no_pipeline(None, 105.6)).detour.avoid_edges == frozenset()


def test_a_successor_that_was_restarted_has_nothing_but_is_not_avoided() -> None:
    it = running(num_tokens=3)
    error = UnknownSessionError("not open on this node", subject="c")
    detour = looked(it.failed("b", 1, error, 105.0, is_open=True)).detour
    assert (detour.avoid_edges, detour.suspects) == (frozenset(), frozenset())
    assert sorted(detour.kept) == ["a", "b"]


def test_a_stage_whose_session_is_gone_is_opened_anew_if_it_must_be() -> None:
    """As where its KV can't be cut."""
    it = running(num_tokens=3)
    detour = looked(it.failed("b", 1, InvalidRequestError("can't be cut", subject="b"), 105.0)).detour
    assert sorted(detour.kept) == ["a", "c"]
    assert detour.avoid == set()
    assert detour.suspects == {"b"}


def test_a_stage_that_fails_for_good_is_left_alone_for_good() -> None:
    it = running(num_tokens=3)
    error = InternalError("the logits are not finite", subject="b")
    assert looked(it.failed("b", 1, error, 105.0)).detour.avoid == {"b"}
    assert ended(it.no_pipeline(None, 105.0)) is error  # waiting would be of no use
    it = running(num_tokens=3)
    it.failed("b", 1, error, 105.0)
    reopened(it, SPARE, 105.0, (6, 0), (0, 0), (6, 6))
    it.token("c", token(3, epoch=2), 106.0)
    assert looked(it.lost("spare", GONE, 107.0)).detour.avoid == {"b"}


def test_a_journal_that_goes_between_the_word_and_the_deed_leads_to_another_epoch() -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    reopened(it, SPARE, 105.0, (6, 0), (0, 0), (6, 6))
    gone = PeerError("the journal is gone", subject="a")
    detour = looked(it.failed("a", 2, gone, 105.1, is_open=True)).detour
    assert (detour.avoid, detour.avoid_edges) == (frozenset(), frozenset())
    assert "a" in detour.kept
    actions = reopened(it, SPARE, 105.1, (6, 6), (0, 0), (6, 6))
    assert starts(actions)["a"] == (0, 0)


@pytest.mark.parametrize("error", [ResourceExhaustedError("no KV blocks left"), AssignmentError("it has moved")])
def test_a_stage_that_refuses_the_reopening_is_asked_again_later_where_there_is_no_other(error: OsaiError) -> None:
    error.subject = "spare"
    it, now_s = running(num_tokens=3), 105.0
    it.lost("b", GONE, now_s)
    for _ in range(2):
        it.pipeline_found(Found(pipeline=SPARE), now_s)
        detour = looked(it.failed("spare", it.epoch, error, now_s)).detour
    assert detour.avoid == {"spare"}
    (waiting,) = it.no_pipeline(None, now_s)
    assert isinstance(waiting, Waiting)
    assert waiting.remaining_s == 30
    assert looked(it.tick(105.5)).detour.avoid == frozenset()
    actions = reopened(it, SPARE, 105.5, (6, 0), (0, 0), (6, 6))
    (rerouted,) = [action for action in actions if isinstance(action, Rerouted)]
    assert (rerouted.reason, rerouted.pause_s) == ("node b was lost", 0.5)


def test_a_session_waits_for_nodes_and_says_so_now_and_then() -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    gap = NotCoveredError("layers 2:4 of m have no ready node")
    assert it.no_pipeline(gap, 105.0) == [Waiting(reason=gap.message, remaining_s=30)]
    now_s, notices = 105.0, 0
    while now_s < 134.9:
        assert it.deadline_s == pytest.approx(now_s + 0.5)
        now_s = it.deadline_s
        looked(it.tick(now_s))
        notices += len(it.no_pipeline(gap, now_s)) if now_s < 135 else 0
    assert notices == 5
    error = ended(it.no_pipeline(gap, 135.0))
    assert isinstance(error, NotCoveredError)
    assert "layers 2:4 of m have no ready node (node b was lost; waited for 30 s; 3 tokens were gen" in error.message
    assert it.tick(math.inf) == []


def test_a_wait_ends_at_once_when_the_swarm_has_changed() -> None:
    it = running(num_tokens=3)
    assert it.swarm_changed(104.0) == []  # nothing to look for
    it.lost("b", GONE, 105.0)
    it.no_pipeline(None, 105.0)
    looked(it.swarm_changed(105.1))
    reopened(it, SPARE, 105.1, (6, 0), (0, 0), (6, 6))


def test_a_wait_for_nodes_that_refuse_ends_with_their_word() -> None:
    it, now_s = running(num_tokens=3), 105.0
    actions = it.lost("b", GONE, now_s)
    while not isinstance(actions[-1], End):
        if isinstance(actions[-1], FindPipeline):
            avoided = "spare" in actions[-1].detour.avoid
            actions = it.no_pipeline(None, now_s) if avoided else it.pipeline_found(Found(pipeline=SPARE), now_s)
        elif isinstance(actions[-1], Open):
            now_s += 0.01
            full = ResourceExhaustedError("no KV blocks left", subject="spare")
            actions = it.failed("spare", it.epoch, full, now_s)
        else:
            now_s = it.deadline_s
            actions = it.tick(now_s)
        actions = actions or [Waiting(reason="", remaining_s=0)]
    error = ended(actions)
    assert isinstance(error, UnavailableError)
    assert "node b was lost, and no other pipeline opened; at last: " in error.message
    assert "3 tokens were generated" in error.message
    assert 135 <= now_s < 145
    assert it.epoch < 12  # less and less often


def test_epochs_without_a_token_are_bounded() -> None:
    it, now_s = running(num_tokens=3), 105.0
    for _ in range(CONFIG.max_reroutes):
        looked(it.lost("b", GONE, now_s))
        reopened(it, PIPELINE, now_s, (6, 0), (6, 0), (6, 6))
        now_s += 0.1
    error = ended(it.lost("b", GONE, now_s))
    assert isinstance(error, UnavailableError)
    assert "16 pipelines in a row brought no token (3 tokens" in error.message


def test_a_token_makes_the_count_begin_anew() -> None:
    it, now_s = running(num_tokens=3), 105.0
    for i in range(3 * CONFIG.max_reroutes):
        looked(it.lost("b", GONE, now_s))
        reopened(it, PIPELINE, now_s, (6, 0), (6, 0), (6, 6))
        assert it.token("c", token(3 + i, epoch=it.epoch), now_s) != []
    assert it.num_recoveries == 3 * CONFIG.max_reroutes


def test_tokens_on_their_way_count_until_the_next_epoch() -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    it.no_pipeline(None, 105.0)
    assert it.token("c", token(3), 105.1) == [Emit(token(3))]
    (action,) = it.pipeline_found(Found(pipeline=SPARE), 105.2)
    assert isinstance(action, Open)
    assert action.num_known_tokens == NUM_PROMPT + 4


def test_the_last_token_may_be_on_its_way_too() -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    assert it.token("c", token(3, finish="stop"), 105.1)[-1] == End(reason="stop")


@pytest.mark.parametrize(("position", "begin"), [(7, 0), (3, 4), (2**32 - 1, 0)])
def test_a_stage_that_claims_what_can_not_be_is_left_alone(position: int, begin: int) -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    it.pipeline_found(Found(pipeline=SPARE), 105.0)
    detour = looked(it.opened("spare", opened(2, position=position, journal_begin=begin), 105.0)).detour
    assert detour.avoid == {"spare"}
    error = ended(it.no_pipeline(None, 105.0))
    assert isinstance(error, PeerError)
    assert "node spare claims rows before" in error.message


def test_a_token_that_is_overdue_begins_the_next_epoch_on_the_same_nodes_if_need_be() -> None:
    it, now_s = running(), 101.0
    for i in range(20):
        now_s += 0.05
        it.token("c", token(i), now_s)
    assert it.deadline_s == now_s + 2.0  # ten times the mean would be less
    now_s += 2.0
    detour = looked(it.tick(now_s)).detour
    assert (detour.avoid, detour.suspects) == (frozenset(), frozenset())
    actions = reopened(it, PIPELINE, now_s, (23, 0), (23, 0), (23, 23))
    assert any(isinstance(action, Rerouted) for action in actions)
    assert it.deadline_s == now_s + 20 + 0.5  # twice ten seconds, one row
    detour = looked(it.tick(it.deadline_s)).detour
    assert detour.suspects == {"a", "b", "c"}  # one of them is stuck: others, if there are any


def test_slow_pipelines_are_given_time() -> None:
    it, now_s = running(), 101.0
    for i in range(20):
        now_s += 1.0
        it.token("c", token(i), now_s)
    assert it.deadline_s == pytest.approx(now_s + 10)


def test_a_pipeline_that_brings_no_token_at_all_ends_the_session() -> None:
    it, now_s = running(num_tokens=3), 101.0
    for _ in range(CONFIG.max_nudges):
        now_s = it.deadline_s
        looked(it.tick(now_s))
        reopened(it, PIPELINE, now_s, (6, 0), (6, 0), (6, 6))
    error = ended(it.tick(it.deadline_s))
    assert isinstance(error, DeadlineExceededError)
    assert "after 3" in error.message


def test_a_reopening_that_takes_too_long_goes_around_who_is_late() -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    it.pipeline_found(Found(pipeline=SPARE), 105.0)
    it.opened("a", opened(2, position=6), 105.0)
    it.opened("c", opened(2, position=6), 105.0)
    assert looked(it.tick(115.0)).detour.suspects == {"b", "spare"}


def test_a_suspect_is_left_where_there_is_a_better_pipeline_and_not_too_often() -> None:
    it = running(num_tokens=3)
    assert it.watched(frozenset({"x"}), frozenset(), 105.0) == []
    assert looked(it.watched(frozenset({"b"}), frozenset(), 105.0)).detour.suspects == {"b"}
    assert it.no_pipeline(None, 105.0) == []
    assert it.watched(frozenset({"b"}), frozenset(), 114.9) == []
    looked(it.watched(frozenset({"b"}), frozenset(), 115.0))
    assert it.pipeline_found(Found(pipeline=PIPELINE), 115.0) == []  # no better
    looked(it.watched(frozenset({"b"}), frozenset(), 125.0))
    actions = reopened(it, SPARE, 125.0, (6, 0), (0, 0), (6, 6))
    (rerouted,) = [action for action in actions if isinstance(action, Rerouted)]
    assert rerouted.reason == "node b is slow or stuck"


def resumed(num_tokens: int = 3, pipeline: tuple[StageView, ...] = PIPELINE) -> Session:
    return Session(pipeline, NUM_PROMPT, CONFIG, 100.0, num_tokens=num_tokens, attempt=2)


def test_a_resumed_session_asks_for_its_clients_pipeline() -> None:
    it = resumed()
    assert looked(it.start()).detour.kept == {stage.node_id: stage.span for stage in PIPELINE}
    actions = reopened(it, SPARE, 100.5, (6, 0), (0, 0), (6, 6))
    assert it.epoch == (2 << 16) + 1
    assert Begin() in actions
    assert closed(actions) == {}  # nobody is dialled by a client's word
    assert it.num_recoveries == 0
    assert it.token("c", token(3, epoch=it.epoch), 106.0) == [Emit(token(3, epoch=it.epoch))]


def test_a_resumed_session_waits_for_room_and_for_nodes() -> None:
    it = resumed()
    it.start()
    it.pipeline_found(Found(pipeline=PIPELINE), 100.0)
    full = ResourceExhaustedError("no KV blocks left", subject="b")
    looked(it.failed("b", it.epoch, full, 100.1))
    assert it.no_pipeline(None, 100.1) == []  # its client is not told before it has begun
    assert it.deadline_s == pytest.approx(100.6)
    looked(it.tick(100.6))
    assert Begin() in reopened(it, PIPELINE, 100.6, (6, 0), (0, 0), (6, 6))


def test_nodes_that_know_no_epochs_begin_again_under_another_number() -> None:
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    close, action = it.pipeline_found(Found(pipeline=SPARE, resumable=False), 105.0)
    assert closed([close]) == {"a": False, "b": False, "c": False}
    assert action == Open(pipeline=SPARE, epoch=2, kind=OpenKind.RESTART, num_prompt_tokens=7, num_known_tokens=7)
    it.opened("a", opened(2), 105.0)
    it.opened("spare", opened(2), 105.0)
    actions = it.opened("c", opened(2), 105.0)
    assert starts(actions) == {}
    assert ids(actions) == [("a", 0, 7)]
    assert it.token("c", token(0, epoch=2), 106.0) == [Emit(token(3, epoch=2))]  # counted from its own prompt
    assert it.num_tokens == 4


def test_a_token_before_the_epoch_has_begun_ends_the_session() -> None:
    """No tail can draw one that has not been told to go on."""
    it = running(num_tokens=3)
    it.lost("b", GONE, 105.0)
    it.pipeline_found(Found(pipeline=SPARE), 105.0)
    error = ended(it.token("c", token(3, epoch=2), 105.1))
    assert isinstance(error, PeerError)
    assert error.subject == "c"


def test_the_last_epoch_is_the_last() -> None:
    it, now_s = running(), 101.0
    it._epochs.number = 0xFFFF
    looked(it.lost("b", GONE, now_s))
    close, end = it.pipeline_found(Found(pipeline=SPARE), now_s)
    assert isinstance(close, Close)
    assert isinstance(end, End)
