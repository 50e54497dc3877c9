import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from osai.core.errors import ResourceExhaustedError
from osai.node.engine.kv_plan import (
    LayerShape,
    full_plan,
    grouped_plan,
    most_tokens,
    plan_kv,
    session_blocks,
    window_blocks,
)
from osai.node.engine.windows import Window

FULL, NARROW, CHUNKED = Window(), Window("sliding", 128), Window("chunked", 64)


def shape(window: Window, dim: int = 16, *, expands: bool = False) -> LayerShape:
    return LayerShape(key=(2, dim), value=(2, dim), dtype=torch.float32, window=window, expands=expands)


def sizes(windows: list[Window]) -> list[tuple[Window, int]]:
    return [(group.window, len(group.layers)) for group in grouped_plan([shape(window) for window in windows]).groups]


def test_layers_are_grouped_by_window_in_equal_numbers() -> None:
    assert sizes([FULL] * 4) == [(FULL, 4)]
    assert sizes([NARROW] * 4) == [(NARROW, 4)]
    assert sizes([NARROW, FULL] * 3) == [(NARROW, 3), (FULL, 3)]
    assert sizes([*[NARROW] * 5, FULL] * 2) == [*[(NARROW, 2)] * 5, (FULL, 2)]
    assert sizes([FULL, *[NARROW] * 4]) == [(FULL, 1), *[(NARROW, 1)] * 4]
    assert sizes([*[NARROW] * 3, FULL, FULL]) == [(NARROW, 2), (NARROW, 1), (FULL, 2)], "a pad of a window costs little"
    assert sizes([*[NARROW] * 52, *[FULL] * 10])[-1] == (FULL, 10), "more groups than that are too much work"


def test_layers_keep_everything_where_grouping_would_save_nothing() -> None:
    wide = Window("sliding", 100_000)
    assert sizes([wide] * 5 + [FULL] * 4) == [(FULL, 9)], "pads would cost more than windows save"
    assert grouped_plan([shape(NARROW), shape(FULL, 8)]).windows == (FULL,), "pages would differ"
    assert grouped_plan([shape(NARROW, expands=True)] * 2).windows == (FULL,)


def test_every_layer_has_a_place_of_its_own() -> None:
    plan = grouped_plan([shape(w) for w in (FULL, NARROW, NARROW, CHUNKED, NARROW)])
    assert sorted(plan.places) == [0, 1, 2, 3, 4]
    assert len(set(plan.places.values())) == 5
    assert all(place < len(plan.stores) for _, place in plan.places.values())


def test_small_budgets_keep_everything_and_smaller_ones_are_refused() -> None:
    shapes = [shape(NARROW), shape(FULL)]
    page = 16 * 256
    plan, num_blocks = plan_kv(shapes, 16, 100 * page, 64)
    assert (plan.windows, num_blocks) == ((NARROW, FULL), 98)
    plan, num_blocks = plan_kv(shapes, 16, 20 * page, 64)
    assert (plan, num_blocks) == (full_plan(shapes), 8)
    with pytest.raises(ResourceExhaustedError, match=r"takes 8192 bytes.* give 24576 bytes or more"):
        plan_kv(shapes, 16, 24575, 64)
    assert plan_kv(shapes, 16, 24576, 64)[1] == 1


windows = st.lists(
    st.one_of(st.just(FULL), st.builds(Window, st.sampled_from(["sliding", "chunked"]), st.integers(1, 60))),
    min_size=1,
    max_size=4,
)


@given(windows, st.integers(0, 200), st.integers(0, 500))
def test_the_longest_session_is_the_longest(windows: list[Window], num_blocks: int, context: int) -> None:
    def needed(blocks: int) -> int:
        return sum(session_blocks(window, 16, blocks * 16) for window in windows)

    blocks, rest = divmod(most_tokens(windows, 16, num_blocks, context), 16)
    assert rest == 0
    assert needed(blocks) <= num_blocks
    assert needed(blocks + 1) > num_blocks or blocks >= max(num_blocks, context // 16)


@given(st.integers(1, 80), st.integers(0, 300), st.integers(1, 60), st.integers(1, 20))
def test_promised_and_lent_blocks_are_enough(size: int, position: int, count: int, block_size: int) -> None:
    first = Window("sliding", size).first_read(position) // block_size
    needed = (position + count - 1) // block_size + 1 - first
    assert needed <= window_blocks(Window("sliding", size), block_size) + (count - 1) // block_size
