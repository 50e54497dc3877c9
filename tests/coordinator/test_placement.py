"""Placement: never over the memory, gaps first, and spans that join end to end."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from osai.coordinator.placing.placement import ModelSize, place
from osai.coordinator.swarm import joined as end_to_end
from osai.coordinator.swarm import replicas
from osai.core.layers import LayerRange

SIZES = st.builds(
    ModelSize,
    layer_bytes=st.lists(st.integers(0, 50), min_size=1, max_size=12).map(tuple),
    head_bytes=st.integers(0, 60),
    tail_bytes=st.integers(0, 60),
)
EVEN = ModelSize(layer_bytes=(10,) * 6, head_bytes=0, tail_bytes=0)


def largest_layer(size: ModelSize) -> int:
    """What the largest one-layer span takes, embedding or head included."""
    return max(size.span_bytes(LayerRange(i, i + 1)) for i in range(len(size.layer_bytes)))


def joined(size: ModelSize, memories: Sequence[int]) -> list[LayerRange]:
    """The spans of nodes that join one after the other."""
    spans: list[LayerRange] = []
    for memory_bytes in memories:
        placed = place(size, replicas(spans, len(size.layer_bytes)), memory_bytes)
        if placed is not None:
            spans.append(placed)
    return spans


def pipeline_of(spans: Sequence[LayerRange], num_layers: int) -> bool:
    return end_to_end(spans, num_layers)


@given(size=SIZES, counts=st.lists(st.integers(0, 3), min_size=12, max_size=12), memory=st.integers(0, 700))
def test_a_span_fits_and_there_is_none_only_if_no_layer_does(size: ModelSize, counts: list[int], memory: int) -> None:
    counts = counts[: len(size.layer_bytes)]
    placed = place(size, counts, memory)
    fitting = [i for i in range(len(counts)) if size.span_bytes(LayerRange(i, i + 1)) <= memory]
    if placed is None:
        assert fitting == []
        return
    assert size.span_bytes(placed) <= memory
    hosted = {counts[layer] for layer in range(placed.start, placed.end)}
    assert hosted == {min(counts[layer] for layer in fitting)}  # one level, the weakest of which any layer fits
    if placed.end < len(counts) and counts[placed.end] == counts[placed.start]:
        longer = LayerRange(placed.start, placed.end + 1)
        assert size.span_bytes(longer) > memory  # as many as fit


@given(size=SIZES, spare=st.lists(st.integers(0, 200), max_size=20))
def test_nodes_that_can_hold_any_layer_cover_the_model_and_their_spans_join(size: ModelSize, spare: list[int]) -> None:
    """The guarantee of `place`: memory beyond the largest layer adds up to the model's size at the latest."""
    memories = [largest_layer(size) + more for more in spare]
    num_layers = len(size.layer_bytes)
    total = size.span_bytes(LayerRange(0, num_layers))
    spans = joined(size, memories)
    assert len(spans) == len(memories)  # each is of use
    counts = replicas(spans, num_layers)
    if sum(spare) >= total or len(spare) >= num_layers:
        assert spans == [] or all(counts)
    if spans and all(counts):
        assert pipeline_of(spans, num_layers)


@given(capacities=st.lists(st.integers(1, 7), max_size=15), num_layers=st.integers(1, 12))
def test_even_layers_are_covered_as_soon_as_the_nodes_hold_as_many(capacities: list[int], num_layers: int) -> None:
    size = ModelSize(layer_bytes=(10,) * num_layers, head_bytes=0, tail_bytes=0)
    spans = joined(size, [10 * capacity + 9 for capacity in capacities])
    covered = all(replicas(spans, num_layers))
    assert covered == (sum(capacities) >= num_layers)
    assert pipeline_of(spans, num_layers) == covered


@given(size=SIZES, memories=st.lists(st.integers(0, 150), max_size=20))
def test_whatever_joins_full_coverage_means_a_pipeline(size: ModelSize, memories: list[int]) -> None:
    """Also with nodes that can hold some layers alone: their spans may leave holes, never an overlap of a gap."""
    spans = joined(size, memories)
    num_layers = len(size.layer_bytes)
    assume(spans)
    assert all(replicas(spans, num_layers)) == pipeline_of(spans, num_layers)


def test_spans_tile_from_the_front_and_then_replicate() -> None:
    assert joined(EVEN, [25, 35, 60, 15, 60, 60]) == [
        LayerRange(0, 2),
        LayerRange(2, 5),
        LayerRange(5, 6),
        LayerRange(0, 1),
        LayerRange(1, 6),
        LayerRange(0, 6),
    ]


def test_the_longest_gap_is_closed_first() -> None:
    assert place(EVEN, (1, 0, 1, 0, 0, 1), 100) == LayerRange(3, 5)


def test_embedding_and_head_count_where_they_lie() -> None:
    size = replace(EVEN, head_bytes=20, tail_bytes=30)
    assert place(size, (0,) * 6, 109) == LayerRange(0, 5)
    assert place(size, (0,) * 6, 110) == LayerRange(0, 6)
    assert place(size, (1, 1, 1, 0, 0, 0), 59) == LayerRange(3, 5)


def test_a_node_too_small_for_the_embedding_takes_other_layers() -> None:
    """It used to be turned away, and the swarm with it where no larger node came first."""
    size = replace(EVEN, head_bytes=100)
    assert place(size, (0,) * 6, 30) == LayerRange(1, 4)
    assert place(size, (0, 1, 1, 1, 1, 1), 30) == LayerRange(1, 4)  # layer 0 is weakest, and out of reach


def test_a_node_large_enough_for_the_embedding_takes_it_while_others_take_the_rest() -> None:
    size = replace(EVEN, head_bytes=100)
    assert joined(size, [30, 120, 30]) == [LayerRange(1, 4), LayerRange(0, 1), LayerRange(4, 6)]


@pytest.mark.parametrize(("memory", "expected"), [(9, None), (10, LayerRange(0, 1))])
def test_the_smallest_node(memory: int, expected: LayerRange | None) -> None:
    assert place(EVEN, (0,) * 6, memory) == expected


def test_a_model_without_layers_has_no_span() -> None:
    assert place(ModelSize(layer_bytes=(), head_bytes=0, tail_bytes=0), (), 100) is None
