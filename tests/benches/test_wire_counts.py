"""What benches `wire` and `wan` make of what they counted and timed."""

import pytest
from scripts.benches import wan, wire
from scripts.benches.samples import Comparison
from scripts.benches.swarm import Generated


def test_the_difference_of_two_generations_is_decode_alone() -> None:
    short = [(50_000, 900), (2_000, 40), (700, 700)]  # a prompt, the first tokens, the coordinator's link
    long = [(50_000, 900), (2_000 + 10 * 2_100, 40 + 10 * 13), (700 + 20, 700 + 10)]
    found = wire.traffic(short, long, 10)
    assert (found.forward, found.both_ways, found.everything) == (2_100, 2_113, 2_116)


def test_a_gap_is_the_median_and_two_tokens_at_once_share_theirs() -> None:
    generated = Generated(token_ids=(1, 2, 3, 4, 5), arrivals=((0.0, 1), (0.1, 1), (0.3, 2), (0.9, 1)))
    assert wan.token_gap_s(generated) == pytest.approx(0.1)


def test_the_ideal_is_the_ring_of_delays_and_the_time_without() -> None:
    turns = wan.Turns(gap_s={0: [0.25, 0.5], 500: [1.5, 1.75]})  # powers of two: sums are exact
    figure = wan._gap(wan.Options(num_stages=2), turns, 500)
    assert figure.compared == Comparison.of([1.5, 1.75], [1.25, 1.5])
