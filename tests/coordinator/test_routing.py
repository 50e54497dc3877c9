"""Routing against every chain that there is."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from coordinator.builders import node, span
from osai.coordinator.api import StageView
from osai.coordinator.routing import HOP_S, Hop, route
from osai.core.layers import LayerRange

NUM_LAYERS = 5


def hop(name: str, start: int, end: int, **fields: float | tuple[bytes, str]) -> Hop:
    values = {"kind": (b"m", "float32"), "num_free_kv_tokens": 100, "cost_s": 1.0}
    return Hop(node_id=name, address=f"{name}:1", layers=LayerRange(start, end), **{**values, **fields})  # type: ignore[arg-type]


@st.composite
def some_hops(draw: st.DrawFn) -> list[Hop]:
    """Hops of distinct nodes, of two kinds, some short of KV; costs that add up exactly and often tie."""
    hops = []
    for i in range(draw(st.integers(0, 9))):
        start = draw(st.integers(0, NUM_LAYERS - 1))
        hops.append(
            hop(
                f"n{i}",
                start,
                draw(st.integers(start + 1, NUM_LAYERS + 1)),  # also past the last layer, as a broken record may say
                kind=(draw(st.sampled_from([b"m", b"o"])), "float32"),
                num_free_kv_tokens=draw(st.sampled_from([9, 10, 11])),
                cost_s=float(draw(st.integers(1, 4))),
            )
        )
    return hops


def all_chains(hops: Sequence[Hop], at: int = 0) -> Iterator[tuple[Hop, ...]]:
    if at == NUM_LAYERS:
        yield ()
    for first in hops:
        if first.layers.start == at:
            yield from ((first, *rest) for rest in all_chains(hops, first.layers.end))


@given(hops=some_hops(), order=st.randoms(use_true_random=False))
def test_the_route_is_the_cheapest_of_all_chains(hops: list[Hop], order: object) -> None:
    chains = [chain for chain in all_chains(hops) if len({h.kind for h in chain}) == 1]
    found = route(hops, NUM_LAYERS, 10)
    if not chains:
        assert found is None
        return
    assert found is not None
    by_id = {h.node_id: h for h in hops}
    chosen = tuple(by_id[stage.node_id] for stage in found)
    assert chosen in chains  # joined, of one kind

    def cost(chain: tuple[Hop, ...]) -> tuple[int, float]:  # room comes before time
        return sum(h.num_free_kv_tokens < 10 for h in chain), sum(h.cost_s for h in chain)

    assert cost(chosen) == min(cost(chain) for chain in chains)
    assert found == tuple(StageView(node_id=h.node_id, address=h.address, span=h.layers) for h in chosen)


@given(hops=some_hops(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_does_not_matter(hops: list[Hop], order: object) -> None:
    shuffled = list(hops)
    order.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis's Random
    assert route(hops, NUM_LAYERS, 10) == route(shuffled, NUM_LAYERS, 10)


def test_kinds_are_never_mixed_even_where_that_would_be_cheaper() -> None:
    other = (b"m", "bfloat16")
    cheap = [hop("a", 0, 2, cost_s=0.1), hop("b", 2, 5, cost_s=0.1, kind=other)]
    assert route(cheap, NUM_LAYERS, 10) is None
    found = route([*cheap, hop("c", 0, 5, cost_s=9.0)], NUM_LAYERS, 10)
    assert [stage.node_id for stage in found or ()] == ["c"]


def test_a_quantised_span_joins_no_other() -> None:
    quantized = (b"m", "bfloat16+int8")
    hops = [hop("a", 0, 2, kind=(b"m", "bfloat16")), hop("b", 2, 5, kind=quantized), hop("c", 0, 2, kind=quantized)]
    assert route(hops[:2], NUM_LAYERS, 10) is None
    assert [stage.node_id for stage in route(hops, NUM_LAYERS, 10) or ()] == ["c", "b"]


def test_a_node_that_had_no_room_is_asked_only_where_no_other_way_is() -> None:
    """What it said is some seconds old, and the session may share KV; it used to be taken for the last word."""
    full = hop("a", 0, 5, cost_s=0.1, num_free_kv_tokens=9)
    roomy = [hop("b", 0, 2), hop("c", 2, 5, num_free_kv_tokens=10)]
    assert [stage.node_id for stage in route([full, *roomy], NUM_LAYERS, 10) or ()] == ["b", "c"]
    assert [stage.node_id for stage in route([full], NUM_LAYERS, 10) or ()] == ["a"]


def test_ties_go_to_the_lower_id_and_fewer_stages_win_over_slightly_faster_ones() -> None:
    members = [
        node("b", span(0, 5)),
        node("a", span(0, 5)),
        *(node(f"s{i}", span(i, i + 1)) for i in range(NUM_LAYERS)),
    ]
    fast = [replace(m, spans=(replace(m.spans[0], step_time_s=0.0019),)) for m in members[2:]]  # 9.5 ms in all
    hops = [Hop.of(m, m.spans[0], 0) for m in (*members[:2], *fast)]  # 10 ms on one node
    assert [stage.node_id for stage in route(hops, NUM_LAYERS, 10) or ()] == ["a"]


def test_sessions_make_a_node_dearer() -> None:
    members = [node("a", span(0, 5)), node("b", span(0, 5))]
    costs = [Hop.of(m, m.spans[0], sessions).cost_s for m, sessions in zip(members, (3, 0), strict=True)]
    assert costs == [HOP_S + 4 * 0.01, HOP_S + 0.01]
    hops = [Hop.of(m, m.spans[0], sessions) for m, sessions in zip(members, (3, 0), strict=True)]
    assert [stage.node_id for stage in route(hops, NUM_LAYERS, 10) or ()] == ["b"]


def test_a_long_model_with_many_replicas_is_routed_at_once() -> None:
    """A hundred nodes on each of a hundred layers: chains are beyond counting, boundaries are not."""
    hops = [
        hop(f"{layer}-{i}", layer, layer + 1, cost_s=1 + i) for layer, i in itertools.product(range(100), range(100))
    ]
    found = route(hops, 100, 10)
    assert [stage.node_id for stage in found or ()] == [f"{layer}-0" for layer in range(100)]
