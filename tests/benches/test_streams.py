"""What is made of many streams: their rate together, and the gaps of one of them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.benches.fairness import p95_ratio
from scripts.benches.samples import aggregate_rate, gaps_within, percentile

from osai.core.errors import InvalidRequestError

GAPS = st.lists(st.floats(0.01, 10), min_size=1, max_size=30)


def test_only_the_time_counts_in_which_all_streams_run() -> None:
    early = [(float(at), 1) for at in range(11)]  # 0 to 10
    late = [(at + 4.5, 1) for at in range(20)]  # 4.5 to 23.5
    # from 4.5 to 10: 5, 6, 7, 8, 9, 10 of the one, 5.5 to 9.5 of the other
    assert aggregate_rate([early, late]) == pytest.approx((6 + 5) / 5.5)


@given(st.integers(1, 20), st.integers(3, 50), st.floats(0.001, 2))
def test_streams_in_step_have_the_rate_of_one_times_their_number(count: int, length: int, step_s: float) -> None:
    stream = [(i * step_s, 1) for i in range(length)]
    assert aggregate_rate([stream] * count) == pytest.approx(count / step_s)


@pytest.mark.parametrize("streams", [[], [[]], [[(1.0, 1), (2.0, 1)], [(3.0, 1), (4.0, 1)]]])
def test_streams_that_never_run_together_have_no_rate(streams: list[list[tuple[float, int]]]) -> None:
    with pytest.raises(InvalidRequestError):
        aggregate_rate(streams)


@given(GAPS, GAPS, GAPS)
def test_gaps_within_a_time_are_those_that_touch_it(
    before: list[float], inside: list[float], after: list[float]
) -> None:
    times = list(itertools.accumulate([*before, *inside, *after], initial=0.0))
    start, end = times[len(before)], times[len(before) + len(inside)]
    assert gaps_within(times, start, end) == pytest.approx(inside)
    wider = gaps_within(times, start - before[-1] / 2, end + after[0] / 2)
    assert wider == pytest.approx([before[-1], *inside, after[0]])


def test_the_p95_is_of_all_gaps_together_and_its_range_of_single_turns() -> None:
    busy, quiet = [[2.0] * 10, [6.0] * 10], [[1.0] * 10, [2.0] * 10]
    found = p95_ratio(busy, quiet)
    assert found.subject.median == percentile(busy[0] + busy[1], 0.95) == 6.0
    assert (found.ratio, found.low, found.high) == (3.0, 2.0, 3.0)
