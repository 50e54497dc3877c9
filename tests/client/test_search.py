"""Whom a generation asks, in which order, how often and for how long: without a clock or a network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.client.lost import CoordinatorLostError
from osai.client.roster import MAX_LEARNED, Roster
from osai.client.search import MAX_DELAY_S, MIN_DELAY_S, Search
from osai.core import errors

LOST = CoordinatorLostError("gone")
ERRORS = st.sampled_from(
    [LOST, errors.NotCoveredError("gap"), errors.ResourceExhaustedError("full"), errors.DeadlineExceededError("late")]
)


def search(*addresses: str, resume_s: float = 60.0, jitter: float = 0.5) -> Search:
    return Search(Roster(addresses or ("a:1", "b:1", "c:1")), resume_s, lambda: jitter)


def held(*addresses: str, resume_s: float = 60.0) -> Search:
    """One whose generation runs."""
    it = search(*addresses, resume_s=resume_s)
    it.held(0.0)
    it.progressed()
    return it


def test_each_is_asked_once_before_the_first_took_the_request() -> None:
    it = search()
    assert it.failed(LOST, 0.0, begun=False, started=False) == 0.0
    assert it.address == "b:1"
    assert it.failed(errors.DeadlineExceededError("no greeting"), 1.0, begun=False, started=False) == 0.0
    assert it.address == "c:1"
    with pytest.raises(errors.UnavailableError, match="none of 3 coordinators can be reached: a:1: gone; b:1: no gree"):
        it.failed(LOST, 2.0, begun=False, started=False)


def test_who_answered_last_is_asked_first() -> None:
    roster = Roster(["a:1", "b:1"])
    it = Search(roster, 60.0, lambda: 0.5)
    it.failed(LOST, 0.0, begun=False, started=False)
    it.held(1.0)
    assert Search(roster, 60.0, lambda: 0.5).address == "b:1"


def test_the_others_are_asked_at_once_and_the_round_then_waits() -> None:
    it = held()
    delays, asked = [], []
    for i in range(9):
        delays.append(it.failed(LOST, 0.0, begun=i == 0, started=i == 0))
        asked.append(it.address)
    assert asked == ["b:1", "c:1", "a:1"] * 3
    assert delays == pytest.approx([0.0, 0.0, 0.075, 0.0, 0.0, 0.15, 0.0, 0.0, 0.3])


def test_delays_grow_to_their_bound_and_vary() -> None:
    for jitter, share in ((0.0, 0.5), (1.0, 1.0)):
        it = search("a:1", resume_s=1e9, jitter=jitter)
        delays = [it.failed(LOST, 0.0, begun=True, started=True) for _ in range(30)]
        assert delays[0] == MIN_DELAY_S * share
        assert delays == sorted(delays)
        assert delays[-1] == MAX_DELAY_S * share


@given(
    addresses=st.lists(st.sampled_from(["a:1", "b:1", "c:1", "d:1"]), min_size=1, unique=True),
    failures=st.lists(st.tuples(ERRORS, st.floats(0, 5)), min_size=40, max_size=40),
    resume_s=st.floats(0.01, 30),
)
def test_it_ends_when_the_budget_is_spent_and_not_before(
    addresses: list[str], failures: list[tuple[errors.OsaiError, float]], resume_s: float
) -> None:
    it = held(*addresses, resume_s=resume_s)
    now_s = 100.0
    error: errors.OsaiError = LOST
    given_up = None
    for i, (later, took_s) in enumerate([*failures, (LOST, resume_s), (LOST, 0.0)]):
        try:
            delay_s = it.failed(error, now_s, begun=i == 0, started=i == 0)
        except errors.OsaiError as e:
            given_up = e
            break
        assert 0 <= delay_s <= min(MAX_DELAY_S, resume_s)
        assert it.address in addresses
        error, now_s = later, now_s + delay_s + took_s
    assert type(given_up) is type(error)
    assert now_s - 100.0 >= resume_s * (1 - 1e-9)


def test_time_with_a_coordinator_is_not_counted_and_a_token_forgives() -> None:
    it = held("a:1", resume_s=10.0)
    it.failed(LOST, 100.0, begun=True, started=True)
    it.held(104.0)
    assert it.remaining_s(1000.0) == 6.0
    it.failed(LOST, 1000.0, begun=True, started=True)  # it opened the session, and gave no token
    assert it.remaining_s(1003.0) == 3.0
    it.held(1003.0)
    it.progressed()
    assert it.remaining_s(2000.0) == 10.0


def test_coordinators_that_die_of_the_session_end_it() -> None:
    """Each opens it and breaks at once: no loop without a pause, and none without an end."""
    it = held("a:1", "b:1", resume_s=5.0)
    now_s, num_tries = 0.0, 0
    while num_tries < 1000:
        num_tries += 1
        try:
            now_s += it.failed(LOST, now_s, begun=True, started=True) + 0.001
        except errors.UnavailableError as e:
            assert "none goes on" in e.message  # noqa: PT017 - when it is raised is what matters
            break
        it.held(now_s)
    assert 4 < num_tries < 50


@pytest.mark.parametrize("begun", [False, True], ids=["at the greeting", "at the request"])
@pytest.mark.parametrize("refusal", [errors.UnauthenticatedError("no key"), errors.ForbiddenError("not you")])
def test_who_is_refused_by_one_coordinator_asks_the_next(refusal: errors.OsaiError, *, begun: bool) -> None:
    it = search()
    assert it.failed(refusal, 0.0, begun=begun, started=False) == 0.0
    assert it.address == "b:1"
    assert it.failed(LOST, 1.0, begun=False, started=False) == 0.0
    assert it.address == "c:1"
    with pytest.raises(type(refusal), match=refusal.message):  # it says more than that the others can't be reached
        it.failed(LOST, 2.0, begun=False, started=False)


def test_a_refusal_of_the_only_coordinator_is_told_as_it_is() -> None:
    with pytest.raises(errors.ForbiddenError, match="not you"):
        search("a:1").failed(errors.ForbiddenError("not you"), 0.0, begun=True, started=False)


def test_where_all_others_refuse_a_lost_generation_the_error_says_both() -> None:
    it = held("a:1", "b:1")
    it.failed(LOST, 0.0, begun=True, started=True)
    it.failed(errors.UnauthenticatedError("no key"), 0.0, begun=False, started=False)
    assert it.address == "a:1"
    with pytest.raises(CoordinatorLostError, match=r"none goes on .* not you"):
        it.failed(errors.ForbiddenError("not you"), 0.0, begun=False, started=False)


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownModelError("no"),
        errors.ProtocolMismatchError("old"),
        errors.UnauthenticatedError("no key"),
        errors.ForbiddenError("not you"),
    ],
)
def test_who_can_not_go_on_is_not_asked_again(error: errors.OsaiError) -> None:
    it = held()
    asked = [it.address]
    it.failed(LOST, 0.0, begun=True, started=True)
    for _ in range(4):
        asked.append(it.address)
        it.failed(error if it.address == "b:1" else LOST, 0.0, begun=False, started=False)
    assert asked == ["a:1", "b:1", "c:1", "a:1", "c:1"]


def test_a_greeting_is_not_waited_for_beyond_the_budget() -> None:
    it = held("a:1", resume_s=2.0)
    assert it.connect_s(5.0, 0.0) == 5.0
    it.failed(LOST, 10.0, begun=True, started=True)
    assert it.connect_s(5.0, 11.0) == 1.0


def test_what_is_learned_is_bounded_and_checked() -> None:
    roster = Roster(["a:1"])
    roster.learn(["me:1", "b:1", "a:1", "http://c:1", "d", "b:1", ":5", "x" * 300 + ":1"])
    assert roster.addresses == ("a:1", "b:1")
    roster.learn(["me:1", *(f"n{i}:1" for i in range(1000))])
    assert len(roster.addresses) == 1 + MAX_LEARNED
    assert roster.addresses[:2] == ("a:1", "n0:1")
    roster.learn([])
    assert roster.ring("n1:1")[:2] == ("n1:1", "n2:1")
    assert roster.ring("unknown:1") == roster.addresses


def test_a_learned_one_that_is_forgotten_is_not_preferred_any_more() -> None:
    roster = Roster(["a:1"])
    roster.learn(["me:1", "b:1"])
    roster.preferred = "b:1"
    roster.learn(["me:1", *(f"n{i}:1" for i in range(MAX_LEARNED))])
    assert roster.preferred == "a:1"


@pytest.mark.parametrize("given_", [[], ["a:1", "b"], [""]])
def test_bad_addresses_are_refused(given_: list[str]) -> None:
    with pytest.raises(errors.InvalidRequestError, match="HOST:PORT"):
        Roster(given_)
