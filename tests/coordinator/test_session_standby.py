"""Followers: who is asked for, what they are given, and when they take over."""

from coordinator.builders import stage
from coordinator.session_builders import PIPELINE, closed, ids, looked, opened, reopened, running, starts, token
from osai.coordinator.api import Rerouted
from osai.coordinator.sessions.actions import Action, Emit, FindStandby, Follow, OpenFollower
from osai.coordinator.sessions.session import Session
from osai.core.errors import InvalidRequestError, ResourceExhaustedError, UnavailableError

STANDBYS = tuple(stage(f"{each.node_id}2", each.span.start, each.span.end) for each in PIPELINE)


def wanted(actions: list[Action]) -> list[str]:
    return [action.stage.node_id for action in actions if isinstance(action, FindStandby)]


def followed() -> Session:
    """After one token, each stage has a follower that is open; 5 tokens are known."""
    it = running(with_standbys=True)
    it.token("c", token(0), 101.0)
    for each, standby in zip(PIPELINE, STANDBYS, strict=True):
        it.standby_found(each, standby, 101.0)
        it.opened(standby.node_id, opened(), 101.0)
    return it


def test_followers_are_asked_for_after_the_first_token() -> None:
    it = running(with_standbys=True)
    emitted, *finds = it.token("c", token(0), 101.0)
    assert isinstance(emitted, Emit)
    assert wanted(finds) == ["a", "b", "c"]
    first = finds[0]
    assert isinstance(first, FindStandby)
    assert first.detour.avoid == {"a", "b", "c"}
    assert wanted(it.token("c", token(1), 101.1)) == []  # not with every token
    assert it.deadline_s == 103.0
    assert wanted(it.tick(103.0)) == ["a", "b", "c"]
    assert wanted(running().token("c", token(0), 101.0)) == []  # nobody wants them


def test_a_follower_is_given_what_it_lacks_and_all_that_comes() -> None:
    it = running(with_standbys=True)
    it.token("c", token(0), 101.0)
    (opening,) = it.standby_found(PIPELINE[1], STANDBYS[1], 101.0)
    assert isinstance(opening, OpenFollower)
    assert (opening.index, opening.epoch, opening.resume, opening.num_known_tokens) == (1, 1, False, 5)
    it.token("c", token(1), 101.1)
    assert it.opened("b2", opened(position=2), 101.2) == [
        Follow(stage=PIPELINE[0], epoch=1, follower=STANDBYS[1], follow_from=2)
    ]
    assert it.opened("b2", opened(position=2), 101.2) == []


def test_the_heads_follower_is_fed_from_here() -> None:
    it = running(with_standbys=True)
    it.token("c", token(0), 101.0)
    it.standby_found(PIPELINE[0], STANDBYS[0], 101.0)
    assert ids(it.token("c", token(1), 101.1)) == []
    assert ids(it.opened("a2", opened(), 101.2)) == [("a2", 0, 6)]
    assert ids(it.token("c", token(2), 101.3)) == [("a2", 6, 7)]


def test_a_follower_takes_the_place_of_a_stage_that_is_lost() -> None:
    it = followed()
    detour = looked(it.lost("b", UnavailableError("gone"), 105.0)).detour
    assert {"a2", "b2", "c2"} < detour.kept.keys()
    pipeline = (PIPELINE[0], STANDBYS[1], PIPELINE[2])
    actions = reopened(it, pipeline, 105.0, (4, 0), (3, 0), (4, 4))
    assert starts(actions) == {"c": (4, 4), "b2": (3, 4), "a": (4, 3)}
    assert closed(actions) == {"b": False}
    again = [(a.follower.node_id, a.resume, a.epoch) for a in actions if isinstance(a, OpenFollower)]
    assert again == [("a2", True, 2), ("c2", True, 2)]
    assert it.opened("c2", opened(2, position=4), 105.1) == [
        Follow(stage=STANDBYS[1], epoch=2, follower=STANDBYS[2], follow_from=4)
    ]
    assert wanted(it.tick(it.deadline_s)) == ["b2"]


def test_a_follower_that_is_lost_harms_nothing() -> None:
    it = followed()
    actions = it.lost("b2", UnavailableError("gone"), 105.0)
    assert [a for a in actions if isinstance(a, Follow)] == [Follow(stage=PIPELINE[0], epoch=1, follower=None)]
    assert closed(actions) == {"b2": False}
    it.token("c", token(1), 105.0)
    assert it.num_recoveries == 0
    actions = it.failed("a2", 1, ResourceExhaustedError("full", subject="a2"), 105.1)
    assert closed(actions) == {"a2": False}


def test_a_follower_that_can_not_be_given_what_it_lacks_is_closed_and_not_replaced() -> None:
    it = followed()
    error = InvalidRequestError("the journal begins later", subject="b2")
    assert closed(it.failed("a", 1, error, 105.0, is_open=True)) == {"b2": False}
    assert wanted(it.tick(it.deadline_s)) == []
    it.failed("b", 1, UnavailableError("node c2 was lost", subject="c2"), 106.0, is_open=True)
    assert wanted(it.tick(it.deadline_s)) == ["c"]  # another may do


def test_a_node_that_leaves_hands_over_once_its_follower_has_caught_up() -> None:
    it = running(num_tokens=40)
    leaving = frozenset({"b"})
    assert wanted(it.watched(frozenset(), leaving, 105.0)) == ["b"]
    it.standby_found(PIPELINE[1], STANDBYS[1], 105.0)
    it.opened("b2", opened(), 105.1)
    assert it.watched(frozenset(), leaving, 105.5) == []
    it.progressed("b2", 1, 20)
    assert it.watched(frozenset(), leaving, 106.0) == []
    it.progressed("b2", 1, 30)
    assert looked(it.watched(frozenset(), leaving, 106.5)).detour.avoid == {"b"}
    pipeline = (PIPELINE[0], STANDBYS[1], PIPELINE[2])
    actions = reopened(it, pipeline, 106.5, (43, 0), (38, 0), (43, 43))
    assert starts(actions) == {"c": (43, 43), "b2": (38, 43), "a": (43, 38)}
    assert closed(actions) == {"b": False}
    (rerouted,) = [action for action in actions if isinstance(action, Rerouted)]
    assert rerouted.reason == "node b is about to leave"


def test_a_node_that_leaves_without_a_follower_is_left_if_there_is_another_way() -> None:
    it = running(num_tokens=40)
    leaving = frozenset({"b"})
    assert wanted(it.watched(frozenset(), leaving, 105.0)) == ["b"]
    assert looked(it.standby_found(PIPELINE[1], None, 105.0)).detour.avoid == {"b"}
    assert it.no_pipeline(None, 105.0) == []  # it serves on as long as it can
    assert wanted(it.watched(frozenset(), leaving, 107.0)) == ["b"]
    assert it.standby_found(PIPELINE[1], None, 107.0) == []


def test_words_about_followers_of_an_older_epoch_are_dropped() -> None:
    it = followed()
    it.lost("b", UnavailableError("gone"), 105.0)
    reopened(it, (PIPELINE[0], STANDBYS[1], PIPELINE[2]), 105.0, (4, 0), (3, 0), (4, 4))
    assert it.opened("c2", opened(1, position=4), 105.1) == []
    assert it.failed("c2", 1, ResourceExhaustedError("full"), 105.1) == []
    assert it.progressed("c2", 1, 4) == []
