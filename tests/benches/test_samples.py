"""What is made of samples: medians, percentiles, ratios, decode rates."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts.benches.samples import Comparison, Summary, decode_rate, percentile

from osai.core.errors import InvalidRequestError

SAMPLES = st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=50)
GAPS = st.lists(st.tuples(st.floats(min_value=1e-3, max_value=10), st.integers(1, 5)), min_size=1, max_size=30)


@given(SAMPLES)
def test_a_summary_is_ordered_and_takes_no_notice_of_the_order_of_samples(samples: list[float]) -> None:
    summary = Summary.of(samples)
    assert summary.low <= summary.median <= summary.high
    assert summary.median <= summary.p95 <= summary.high
    assert summary == Summary.of(samples[::-1])
    assert summary.median == statistics.median(samples)


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=2, max_size=50))
def test_percentiles_are_those_of_the_standard_library(samples: list[float]) -> None:
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    assert percentile(samples, 0.95) == pytest.approx(cuts[94])
    assert percentile(samples, 0.01) == pytest.approx(cuts[0])
    assert percentile(samples, 0) == min(samples)
    assert percentile(samples, 1) == max(samples)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(InvalidRequestError, match="nothing was measured"):
        Summary.of([])


def test_a_ratio_is_of_the_medians_and_its_range_of_the_pairs() -> None:
    compared = Comparison.of([10.0, 30.0, 20.0], [10.0, 10.0, 40.0])
    assert (compared.subject.median, compared.baseline.median) == (20.0, 10.0)
    assert (compared.ratio, compared.low, compared.high) == (2.0, 0.5, 3.0)


@given(SAMPLES, st.floats(min_value=0.01, max_value=100))
def test_a_subject_that_is_a_multiple_of_its_baseline_has_that_ratio(baseline: list[float], factor: float) -> None:
    compared = Comparison.of([factor * sample for sample in baseline], baseline)
    assert [compared.ratio, compared.low, compared.high] == pytest.approx([factor] * 3)


@pytest.mark.parametrize(("subject", "baseline"), [([1.0], [1.0, 2.0]), ([], []), ([1.0], [0.0])])
def test_what_gives_no_ratio_is_an_error(subject: list[float], baseline: list[float]) -> None:
    with pytest.raises(InvalidRequestError):
        Comparison.of(subject, baseline)


def test_the_first_token_and_the_wait_for_it_do_not_count() -> None:
    assert decode_rate([(100.0, 1), (100.5, 1), (101.0, 1)]) == 2.0
    assert decode_rate([(100.0, 3), (102.0, 4)]) == 2.0


@given(GAPS, st.integers(1, 9), st.floats(min_value=0, max_value=1e5))
def test_a_rate_is_tokens_by_time_wherever_the_clock_starts(
    gaps: list[tuple[float, int]], first: int, start: float
) -> None:
    times = list(itertools.accumulate((gap for gap, _ in gaps), initial=start))
    arrivals = list(zip(times, [first, *(count for _, count in gaps)], strict=True))
    expected = sum(count for _, count in gaps) / sum(gap for gap, _ in gaps)
    assert decode_rate(arrivals) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("arrivals", [[], [(1.0, 5)], [(1.0, 1), (1.0, 1)], [(1.0, 1), (3.0, 1), (2.0, 1)]])
def test_what_gives_no_rate_is_an_error(arrivals: list[tuple[float, int]]) -> None:
    with pytest.raises(InvalidRequestError):
        decode_rate(arrivals)
