"""What is tried again, when, and how often: without a clock or a network."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.client.lost import CoordinatorLostError
from osai.client.retries import Attempts, Retries, RetryBudget, may_pass
from osai.core import errors

LOST = CoordinatorLostError("gone")
FULL = errors.ResourceExhaustedError("full", retry_after_s=3.0)


def attempts(jitter: float = 0.0, budget: RetryBudget | None = None, **bounds: Any) -> Attempts:  # noqa: ANN401 - of Retries
    retries = Retries(**bounds)
    return Attempts(retries, budget or RetryBudget(retries), lambda: jitter, 100.0)


def test_waits_double_to_their_bound_and_vary_by_half() -> None:
    bounds: dict[str, Any] = {
        "max_attempts": 8,
        "min_delay_s": 1.0,
        "max_delay_s": 5.0,
        "total_s": 1e9,
        "bucket_tokens": 1e9,
    }
    for jitter, share in ((0.0, 0.5), (1.0, 1.0)):
        it = attempts(jitter, **bounds)
        delays = [it.failed(LOST, 100.0) for _ in range(6)]
        assert delays == [share * longest for longest in (1.0, 2.0, 4.0, 5.0, 5.0, 5.0)]


def test_attempts_are_counted() -> None:
    it = attempts(max_attempts=3)
    assert [it.failed(LOST, 100.0) is None for _ in range(3)] == [False, False, True]
    assert attempts(max_attempts=1).failed(LOST, 100.0) is None


def test_no_attempt_begins_after_the_whole_time() -> None:
    it = attempts(total_s=10.0, min_delay_s=2.0)
    assert it.failed(LOST, 108.0) == 1.0
    assert it.remaining_s(108.0) == 2.0
    assert it.failed(LOST, 109.5) is None


@pytest.mark.parametrize(("jitter", "delay_s"), [(0.0, 3.0), (0.5, 3.15)])
def test_a_wait_that_the_coordinator_names_is_kept_and_never_cut(jitter: float, delay_s: float) -> None:
    assert attempts(jitter).failed(FULL, 100.0) == pytest.approx(delay_s)
    assert attempts(jitter, total_s=2.9).failed(FULL, 100.0) is None


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (LOST, True),
        (errors.UnavailableError("a stage was lost"), True),
        (FULL, True),
        (errors.ResourceExhaustedError("full, for who knows how long"), False),
        (errors.NotCoveredError("layer 3 has no node"), False),  # the coordinator has waited for one already
        (errors.DeadlineExceededError("late"), False),  # so has the client
        (errors.InvalidRequestError("no"), False),
        (errors.ContextExceededError("no"), False),
        (errors.UnauthenticatedError("no"), False),
        (errors.ProtocolMismatchError("no"), False),
        (errors.CancelledError("no"), False),
        (errors.BadFrameError("no"), False),
        (errors.InternalError("no"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: errors.OsaiError, passes: bool) -> None:
    assert may_pass(error) == passes
    retries = Retries()
    budget = RetryBudget(retries)
    assert (attempts(budget=budget).failed(error, 100.0) is not None) == passes
    untouched = RetryBudget(retries)
    untouched.failed()
    assert budget.allows
    assert passes == (vars(budget) == vars(untouched))


def test_calls_that_fail_one_after_another_stop_trying_again_and_successes_bring_it_back() -> None:
    retries = Retries(bucket_tokens=10, bucket_refill=0.5)
    budget = RetryBudget(retries)
    retried = [Attempts(retries, budget, lambda: 0.0, 0.0).failed(LOST, 0.0) is not None for _ in range(8)]
    assert retried == [True] * 4 + [False] * 4  # half of the tokens are gone
    for _ in range(7):
        assert not budget.allows
        Attempts(retries, budget, lambda: 0.0, 0.0).succeeded()
    assert budget.allows


@given(
    outcomes=st.lists(st.booleans(), max_size=300),
    max_attempts=st.integers(1, 6),
    bucket_tokens=st.floats(1, 20),
    bucket_refill=st.floats(0, 1),
)
def test_there_are_few_retries_however_calls_go(
    outcomes: list[bool], max_attempts: int, bucket_tokens: float, bucket_refill: float
) -> None:
    """At most so many for each call, and over all no more than the bucket and its refill pay for."""
    retries = Retries(max_attempts=max_attempts, bucket_tokens=bucket_tokens, bucket_refill=bucket_refill, total_s=1e9)
    budget, answers, num_retries, num_successes = RetryBudget(retries), iter(outcomes), 0, 0
    for _ in outcomes:
        it = Attempts(retries, budget, lambda: 0.5, 0.0)
        num_tries = 0
        while True:
            num_tries += 1
            if next(answers, False):
                it.succeeded()
                num_successes += 1
                break
            if it.failed(LOST, 0.0) is None:
                break
            num_retries += 1
        assert num_tries <= max_attempts
    assert num_retries <= bucket_tokens / 2 + num_successes * bucket_refill


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"min_delay_s": 0.0},
        {"max_delay_s": -1.0},
        {"bucket_tokens": math.nan},
        {"total_s": -1.0},
        {"bucket_refill": math.nan},
    ],
)
def test_bounds_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequestError, match=next(iter(wrong))):
        Retries(**wrong)
