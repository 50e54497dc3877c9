"""Routing against every ring that there is."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.builders import MODEL, model, node, span, stage
from osai.coordinator.api import StageView
from osai.coordinator.catalog import ServedModel
from osai.coordinator.routes.hop import hop_cost_s
from osai.coordinator.routes.routing import RouteWish, find_pipeline, find_standby, is_routable
from osai.coordinator.swarm import NodeState, SpanState
from osai.coordinator.swarm_state import DEFAULT_DELAY_S
from osai.coordinator.text import Tokenizer
from osai.core.errors import NotCoveredError
from osai.core.layers import LayerRange

NUM_LAYERS = 5
NAMES = [f"n{i}" for i in range(9)]
NEW = RouteWish(num_tokens=10)
Stages = Sequence[tuple[NodeState, SpanState]]


@pytest.fixture(scope="module")
def served(tokenizer: Tokenizer) -> ServedModel:
    return model(tokenizer, MODEL, layer_bytes=(100,) * NUM_LAYERS)


@pytest.fixture(scope="module")
def long_model(tokenizer: Tokenizer) -> ServedModel:
    return model(tokenizer, MODEL, layer_bytes=(100,) * 100)


@dataclass(frozen=True)
class Instance:
    nodes: list[NodeState]
    wish: RouteWish


DELAYS = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 0.2), max_size=6)
EDGES = st.frozensets(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=4)
SOME = st.one_of(st.just(frozenset[str]()), st.frozensets(st.sampled_from(NAMES), max_size=3))


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    nodes = []
    for name in NAMES[: draw(st.integers(0, len(NAMES)))]:
        start = draw(st.integers(0, NUM_LAYERS - 1))
        hosted = span(
            start,
            draw(st.integers(start + 1, NUM_LAYERS + 1)),  # also past the last layer, as a broken record may say
            dtype=draw(st.sampled_from(["float32", "float32", "float32", "bfloat16"])),
            state=draw(st.sampled_from(["ready"] * 7 + ["draining"])),
            num_free_kv_tokens=draw(st.sampled_from([9, 10, 11])),
            recent_step_s=draw(st.sampled_from([0.0, 0.02, 0.1])),
            num_waiting_rows=draw(st.sampled_from([0, 0, 64])),
        )
        state = draw(st.sampled_from(["ready"] * 7 + ["draining"]))
        version = draw(st.sampled_from([2, 2, 2, 1]))
        sessions = draw(st.integers(0, 4))
        nodes.append(
            node(name, hosted, state=state, protocol_version=version, num_sessions=sessions, delays=draw(DELAYS))
        )
    keepers = draw(st.one_of(st.just([]), st.lists(st.sampled_from(nodes), max_size=3))) if nodes else []
    wish = RouteWish(
        num_tokens=10,
        sessions=draw(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 9), max_size=2)),
        avoid=draw(SOME),
        avoid_edges=draw(EDGES),
        kept={keeper.node_id: keeper.spans[0].layers for keeper in keepers},
        suspects=draw(SOME),
        min_version=draw(st.sampled_from([1, 1, 2])),
    )
    return Instance(nodes, wish)


def with_digest(nodes: Sequence[NodeState], served: ServedModel) -> list[NodeState]:
    digest = served.manifest.digest
    return [replace(n, spans=tuple(replace(s, manifest_digest=digest) for s in n.spans)) for n in nodes]


def all_chains(stages: Stages, at: int = 0) -> Iterator[Stages]:
    if at == NUM_LAYERS:
        yield ()
    for first in stages:
        if first[1].layers.start == at:
            yield from ((first, *rest) for rest in all_chains(stages, first[1].layers.end))


def usable(nodes: Sequence[NodeState], wish: RouteWish) -> Stages:
    return [
        (n, s)
        for n in nodes
        for s in n.spans
        if n.state != "draining" and s.state == "ready" and n.protocol_version >= wish.min_version
    ]


def hop_s(node: NodeState, span: SpanState, wish: RouteWish) -> float:
    num_sessions = max(node.num_sessions, wish.sessions.get(node.node_id, 0))
    return hop_cost_s(span.recent_step_s or span.step_time_s, num_sessions, span.num_waiting_rows)


def edge_s(a: NodeState, b: NodeState) -> float:
    delays = sorted(a.delays.values())
    usual = delays[len(delays) // 2] if delays else DEFAULT_DELAY_S
    return a.delays.get(b.node_id, b.delays.get(a.node_id, usual))


def cost(chain: Stages, wish: RouteWish) -> tuple[int, int, int, float]:
    """Suspects, stages short of KV, layers to compute again, seconds: said plainly."""
    kept = [wish.kept.get(n.node_id) == s.layers for n, s in chain]
    short = sum(s.num_free_kv_tokens < 10 and not k for (_, s), k in zip(chain, kept, strict=True))
    again = sum(len(s.layers) for (_, s), k in zip(chain, kept, strict=True) if wish.kept and not k)
    ring = [n for n, _ in chain]
    edges = zip(ring, [*ring[1:], ring[0]], strict=True)
    seconds = sum(hop_s(n, s, wish) for n, s in chain) + (sum(edge_s(*e) for e in edges) if len(ring) > 1 else 0)
    return sum(n.node_id in wish.suspects for n in ring), short, again, seconds


def allowed(chain: Stages, wish: RouteWish) -> bool:
    ring = [n.node_id for n, _ in chain]
    edges = set(zip(ring, [*ring[1:], ring[0]], strict=True)) if len(ring) > 1 else set()
    return not wish.avoid & set(ring) and not wish.avoid_edges & edges


@given(instance=instances())
def test_the_pipeline_is_the_best_of_all_rings(instance: Instance, served: ServedModel) -> None:
    nodes, wish = with_digest(instance.nodes, served), instance.wish
    chains = [c for c in all_chains(usable(nodes, wish)) if len({s.dtype for _, s in c}) == 1]
    if not chains:
        with pytest.raises(NotCoveredError):
            find_pipeline(nodes, served, wish)
        return
    found = find_pipeline(nodes, served, wish)
    good = [chain for chain in chains if allowed(chain, wish)]
    if not good:
        assert found is None
        return
    assert found is not None
    by_id = {n.node_id: n for n in nodes}
    chosen = [(by_id[s.node_id], by_id[s.node_id].spans[0]) for s in found]
    assert [s.span for s in found] == [s.layers for _, s in chosen]
    assert chosen in [list(chain) for chain in good]
    *counts, seconds = cost(chosen, wish)
    *best_counts, best_s = min(cost(chain, wish) for chain in good)
    assert counts == best_counts
    assert seconds == pytest.approx(best_s, abs=1e-5)


@given(instance=instances(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_nodes_does_not_matter(instance: Instance, order: Random, served: ServedModel) -> None:
    nodes = with_digest(instance.nodes, served)
    shuffled = list(nodes)
    order.shuffle(shuffled)

    def routed(members: list[NodeState]) -> tuple[StageView, ...] | str | None:
        try:
            return find_pipeline(members, served, instance.wish)
        except NotCoveredError as e:
            return e.message

    assert routed(nodes) == routed(shuffled)


def ids(
    nodes: Sequence[NodeState], served: ServedModel, wish: RouteWish = NEW, standby_of: StageView | None = None
) -> list[str] | None:
    members = with_digest(nodes, served)
    if standby_of is not None:
        standby = find_standby(members, served, standby_of, wish)
        return None if standby is None else [standby.node_id]
    pipeline = find_pipeline(members, served, wish)
    return None if pipeline is None else [s.node_id for s in pipeline]


def test_kinds_are_never_mixed_even_where_that_would_be_cheaper(served: ServedModel) -> None:
    cheap = [node("a", span(0, 2)), node("b", span(2, 5, dtype="bfloat16"))]
    with pytest.raises(NotCoveredError, match="do not join"):
        ids(cheap, served)
    assert not is_routable(with_digest(cheap, served), served)
    whole = [*cheap, node("c", span(0, 5, step_time_s=9.0))]
    assert ids(whole, served) == ["c"]
    assert is_routable(with_digest(whole, served), served)


def test_a_quantised_span_joins_no_other(served: ServedModel) -> None:
    nodes = [node("a", span(0, 2, dtype="bfloat16")), node("b", span(2, 5, dtype="bfloat16+int8"))]
    assert not is_routable(with_digest(nodes, served), served)
    assert ids([*nodes, node("c", span(0, 2, dtype="bfloat16+int8"))], served) == ["c", "b"]


def test_spans_of_other_weights_are_left_out(served: ServedModel) -> None:
    with pytest.raises(NotCoveredError, match=r"layers 0:5 .* have no ready node"):
        find_pipeline([node("a", span(0, 5, manifest_digest=b"o" * 32))], served, NEW)


def test_a_node_that_had_no_room_is_asked_only_where_no_other_way_is(served: ServedModel) -> None:
    """What it said is some seconds old, and the session may share KV; it used to be taken for the last word."""
    full = node("a", span(0, 5, num_free_kv_tokens=9))
    roomy = [node("b", span(0, 2)), node("c", span(2, 5, num_free_kv_tokens=10))]
    assert ids([full, *roomy], served) == ["b", "c"]
    assert ids([full], served) == ["a"]


def test_ties_go_to_the_lower_id_and_fewer_stages_win_over_slightly_faster_ones(served: ServedModel) -> None:
    fast = [node(f"s{i}", span(i, i + 1, step_time_s=0.0001)) for i in range(NUM_LAYERS)]
    assert ids([node("b", span(0, 5)), node("a", span(0, 5)), *fast], served) == ["a"]


def test_two_requests_at_once_take_different_replicas(served: ServedModel) -> None:
    nodes = [node(name, span(start, end)) for name, start, end in [("a", 0, 2), ("b", 0, 2), ("c", 2, 5), ("d", 2, 5)]]
    first = ids(nodes, served)
    assert first == ["a", "c"]
    assert ids(nodes, served, replace(NEW, sessions=dict.fromkeys(first, 1))) == ["b", "d"]


def test_load_makes_a_node_dearer_whoever_tells_of_it(served: ServedModel) -> None:
    idle = node("b", span(0, 5))
    assert ids([node("a", span(0, 5), num_sessions=1), idle], served) == ["b"]  # another coordinator's
    assert ids([node("a", span(0, 5, num_waiting_rows=512)), idle], served) == ["b"]
    assert ids([node("a", span(0, 5, recent_step_s=0.011)), idle], served) == ["b"]
    assert ids([node("a", span(0, 5, recent_step_s=0.009)), node("b", span(0, 5))], served) == ["a"]


def ring_of(delays: Mapping[str, Mapping[str, float]]) -> list[NodeState]:
    """Heads a and b, tails c and d."""
    spans = {"a": span(0, 2), "b": span(0, 2), "c": span(2, 5), "d": span(2, 5)}
    return [node(name, hosted, delays=delays.get(name, {})) for name, hosted in spans.items()]


def test_the_closing_edge_counts(served: ServedModel) -> None:
    way = {"a": {"c": 0.001, "d": 0.020}, "b": {"c": 0.020, "d": 0.020}}
    assert ids(ring_of(way), served) == ["a", "c"]
    back = {"c": {"a": 0.200, "b": 0.150}, "d": {"a": 0.100, "b": 0.004}}
    assert ids(ring_of(way | back), served) == ["b", "d"]  # 24 ms round; a and c are nearest one way alone


def test_a_delay_that_only_the_other_side_has_measured_counts(served: ServedModel) -> None:
    told = {"c": {"a": 0.1, "b": 0.1}, "d": {"a": 0.1, "b": 0.001}}
    assert ids(ring_of(told), served) == ["b", "d"]


def test_a_broken_link_is_gone_around_while_both_ends_serve(served: ServedModel) -> None:
    nodes = ring_of({})
    assert ids(nodes, served, replace(NEW, avoid_edges=frozenset({("a", "c")}))) == ["a", "d"]
    assert ids(nodes, served, replace(NEW, avoid_edges=frozenset({("c", "a")}))) == ["b", "c"]
    every = frozenset(itertools.product("ab", "cd"))
    assert ids(nodes, served, replace(NEW, avoid_edges=every)) is None


def test_suspects_and_refusers(served: ServedModel) -> None:
    nodes = [node("a", span(0, 5)), node("b", span(0, 5, step_time_s=3.0, num_free_kv_tokens=0))]
    assert ids(nodes, served, replace(NEW, suspects=frozenset("a"))) == ["b"]
    assert ids(nodes, served, replace(NEW, suspects=frozenset("ab"))) == ["a"]
    assert ids(nodes, served, replace(NEW, avoid=frozenset("a"))) == ["b"]
    assert ids(nodes, served, replace(NEW, avoid=frozenset("ab"))) is None


def test_a_reroute_computes_as_few_layers_again_as_it_can(served: ServedModel) -> None:
    nodes = [
        node("a", span(0, 3)),
        node("b", span(3, 5, num_free_kv_tokens=0)),
        node("c", span(0, 5)),
        node("d", span(0, 3)),
    ]
    kept = {"a": LayerRange(0, 3), "b": LayerRange(3, 5)}
    assert ids(nodes, served) == ["c"]
    assert ids(nodes, served, replace(NEW, kept=kept)) == ["a", "b"]
    assert ids(nodes, served, replace(NEW, kept=kept, avoid=frozenset("a"))) == ["d", "b"]
    moved = [replace(nodes[0], spans=(span(0, 2),)), node("e", span(2, 5)), *nodes[2:]]
    assert ids(moved, served, replace(NEW, kept=kept)) == ["c"]  # a hosts other layers now


def test_what_drains_gets_no_stage_even_if_it_keeps_kv(served: ServedModel) -> None:
    kept = replace(NEW, kept={"a": LayerRange(0, 5)})
    for leaving in (node("a", span(0, 5), state="draining"), node("a", span(0, 5, state="draining"))):
        assert ids([leaving, node("b", span(0, 5))], served, kept) == ["b"]
        with pytest.raises(NotCoveredError):
            ids([leaving], served, kept)


def test_every_stage_speaks_the_version(served: ServedModel) -> None:
    nodes = [node("a", span(0, 5), protocol_version=1), node("b", span(0, 5, step_time_s=1.0), protocol_version=2)]
    assert ids(nodes, served, replace(NEW, min_version=2)) == ["b"]
    with pytest.raises(NotCoveredError, match=r"0:5 .*version 2 of the protocol"):
        ids(nodes[:1], served, replace(NEW, min_version=2))


def test_a_standby_has_the_same_span_and_kind_and_room(served: ServedModel) -> None:
    a, b = node("a", span(0, 2)), node("b", span(2, 5))
    tail = stage("b", 2, 5)
    wish = replace(NEW, kept={"a": LayerRange(0, 2), "b": LayerRange(2, 5)})

    def standby(*others: NodeState, wish: RouteWish = wish) -> list[str] | None:
        return ids([a, b, *others], served, wish, tail)

    busy, idle = (node(n, span(2, 5), protocol_version=2, num_sessions=c) for n, c in (("c", 2), ("d", 1)))
    assert standby() is None
    assert standby(busy, idle) == ["d"]
    assert standby(busy, idle, wish=replace(wish, avoid=frozenset("d"))) == ["c"]
    assert standby(busy, idle, wish=replace(wish, suspects=frozenset("d"))) == ["c"]
    assert standby(busy, idle, wish=replace(wish, avoid_edges=frozenset({("a", "d")}))) == ["c"]
    assert standby(node("e", span(2, 5), protocol_version=1)) is None
    assert standby(node("e", span(1, 5), protocol_version=2)) is None
    assert standby(node("e", span(2, 5, dtype="bfloat16"), protocol_version=2)) is None
    assert standby(node("e", span(2, 5, num_free_kv_tokens=9), protocol_version=2)) is None
    assert standby(node("e", span(2, 5), protocol_version=2, state="draining")) is None


def test_a_standby_is_found_while_the_stage_itself_is_gone(served: ServedModel) -> None:
    nodes = [node("a", span(0, 2)), node("c", span(2, 5), protocol_version=2)]
    wish = replace(NEW, kept={"a": LayerRange(0, 2), "b": LayerRange(2, 5)})
    assert ids(nodes, served, wish, stage("b", 2, 5)) == ["c"]


def test_a_long_model_with_many_replicas_is_routed_at_once(long_model: ServedModel) -> None:
    """A hundred nodes on each of a hundred layers: chains are beyond counting, boundaries are not."""
    nodes = [
        node(f"{layer:02}-{i:02}", span(layer, layer + 1, step_time_s=0.001 * (1 + i)))
        for layer, i in itertools.product(range(100), range(100))
    ]
    assert ids(nodes, long_model) == [f"{layer:02}-00" for layer in range(100)]


def many(random: Random) -> list[NodeState]:
    """150 heads and 150 tails, strewn over a square; each knows its delays to 16 of the others."""
    places = {f"n{i:03}": (random.random(), random.random()) for i in range(300)}
    halves = [name for i, name in enumerate(places) if i % 2 == 0], [name for i, name in enumerate(places) if i % 2]
    return [
        node(
            name,
            span(*((0, 2), (2, 5))[i % 2], recent_step_s=random.uniform(0.005, 0.05)),
            num_sessions=random.randrange(4),
            delays={to: 0.1 * math.dist(places[name], places[to]) for to in random.sample(halves[1 - i % 2], 16)},
        )
        for i, name in enumerate(places)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_route_through_many_is_nearly_the_best(seed: int, served: ServedModel) -> None:
    nodes = with_digest(many(Random(seed)), served)
    found = find_pipeline(nodes, served, NEW)
    assert found is not None
    by_id = {n.node_id: n for n in nodes}

    def seconds(ring: Sequence[NodeState]) -> float:
        edges = zip(ring, [*ring[1:], ring[0]], strict=True)
        return sum(hop_s(n, n.spans[0], NEW) for n in ring) + sum(edge_s(*edge) for edge in edges)

    best_s = min(seconds(ring) for ring in itertools.product(nodes[::2], nodes[1::2]))
    assert best_s <= seconds([by_id[s.node_id] for s in found]) <= 1.05 * best_s + 1e-5


def test_the_worse_half_of_many_replicas_is_used_where_the_better_has_no_links(served: ServedModel) -> None:
    nodes = [
        node(f"n{i:03}", span(*((0, 2), (2, 5))[i % 2], step_time_s=0.001 * (1 + i // 2)), delays={})
        for i in range(300)
    ]
    better = [n.node_id for n in nodes[:150]]
    broken = frozenset(itertools.product(better[::2], better[1::2]))
    assert ids(nodes, served) == ["n000", "n001"]
    found = ids(nodes, served, replace(NEW, avoid_edges=broken))
    assert found in (["n000", "n151"], ["n150", "n001"])


def test_a_record_that_claims_endless_times_decides_nothing_else(served: ServedModel) -> None:
    """Times are bounded where they are read and where they are added up: suspects stay the last."""
    slow = node("a", span(0, 2, step_time_s=1e300), delays={"b": 60.0})
    others = [node("b", span(2, 5)), node("c", span(0, 5))]
    assert ids([slow, *others], served, replace(NEW, suspects=frozenset("c"))) == ["a", "b"]
