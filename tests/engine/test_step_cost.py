from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.node.engine.step_cost import STEP_SIZES, StepCost, step_size


def cost_of(*steps: tuple[int, float]) -> StepCost:
    cost = StepCost()
    for num_rows, seconds in steps:
        cost.observe(num_rows, seconds)
    return cost


def test_nothing_is_known_before_the_first_step() -> None:
    assert StepCost().predict(1) is None
    assert StepCost().max_rows(1.0, 512) == 0


def test_sizes_are_few_and_near() -> None:
    assert STEP_SIZES[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
    assert all(low < high <= 1.25 * low for low, high in pairwise(STEP_SIZES[7:]))
    assert STEP_SIZES[-1] >= 16384
    assert [step_size(n) for n in (0, 1, 9, 11, 512, 600)] == [0, 1, 8, 10, 512, 512]


def test_between_the_sizes_seen_lies_a_line_and_beyond_one_size_more_time_is_proportional() -> None:
    cost = cost_of((4, 0.010), (8, 0.014))
    assert [cost.predict(n) for n in (2, 4, 6, 8, 16)] == pytest.approx([0.005, 0.010, 0.012, 0.014, 0.028])
    assert cost.predict(10) == pytest.approx(0.016), "the next size: the line goes on"
    assert cost.max_rows(0.0141, 512) == 8
    assert cost.max_rows(0.0281, 512) == 16
    assert cost.max_rows(0.0281, 13) == 13
    assert cost.max_rows(0.001, 512) == 0


def test_outliers_change_nothing() -> None:
    cost = cost_of((1, 0.01), (1, 0.01), (1, 5.0), (1, 0.01), (1, 5.0))
    assert cost.predict(1) == 0.01
    assert cost_of((1, 0.01), (1, 5.0)).predict(1) == 0.01, "of two, the lower"


def test_a_change_is_followed_within_three_steps() -> None:
    cost = cost_of(*[(4, 0.01)] * 5, *[(4, 0.02)] * 3)
    assert cost.predict(4) == 0.02


def test_a_larger_step_is_never_predicted_to_be_shorter() -> None:
    cost = cost_of((1, 0.012), (16, 0.009))
    assert cost.predict(16) == 0.012


def test_a_large_size_that_was_slow_once_is_forgotten_and_the_small_ones_stay() -> None:
    """Else one disturbed step would keep steps small for ever, as nothing that large would be tried again."""
    cost = cost_of((1, 0.01), (16, 0.01), (32, 9.0))
    for _ in range(70):
        cost.observe(16, 0.01)
    assert cost.predict(32) == pytest.approx(0.02)
    assert cost.predict(1) == 0.01


@given(st.floats(0.001, 0.1), st.floats(0.00001, 0.01), st.lists(st.integers(1, 512), min_size=1, max_size=20))
def test_of_an_affine_cost_no_larger_step_is_underrated(fixed: float, per_row: float, seen: list[int]) -> None:
    cost = cost_of(*((step_size(n), fixed + per_row * step_size(n)) for n in seen))
    for num_rows in STEP_SIZES[:40]:
        predicted, true = cost.predict(num_rows), fixed + per_row * num_rows
        assert predicted is not None
        if num_rows >= step_size(min(seen)):
            assert predicted >= true * 0.999
        else:
            assert predicted <= true * 1.001


@given(st.floats(0.001, 0.1), st.floats(0.0, 0.01), st.floats(1.5, 3.0))
def test_steps_grow_until_the_bound_is_reached(fixed: float, per_row: float, stretch: float) -> None:
    """What a scheduler does with it: it never passes the bound, and gets as near as sizes allow within forty steps."""
    cost = cost_of((1, fixed + per_row))
    bound = stretch * (fixed + per_row)
    num_rows = 9
    for _ in range(40):
        cost.observe(step_size(num_rows), fixed + per_row * step_size(num_rows))
        num_rows = max(cost.max_rows(bound, 512), 9)
        assert num_rows == 9 or fixed + per_row * num_rows <= bound * 1.001
    larger = next((size for size in STEP_SIZES if size > num_rows), 512)
    assert num_rows == 512 or fixed + per_row * larger > bound * 0.999
