"""The search for the cheapest ring in a graph of hops. Pure."""

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple

from osai.coordinator.routes.graph import NO_GAIN_S, RouteGraph
from osai.coordinator.routes.hop import Hop

NUM_FOLLOWED = 2  # heads from which the cheapest way on is tried first, whatever closes it: that cuts the search short
MAX_EXPANDED = 2000  # stages looked at for the closing edge's sake; then the best ring that was found is taken


class _State(NamedTuple):
    """A chain of hops from `head` to `hop`. `paid`: for all of it, the last hop included."""

    bound: float
    number: int  # ties go to the earlier one
    paid: float
    hop: Hop
    head: Hop
    before: "_State | None"


def cheapest_ring(graph: RouteGraph) -> tuple[float, tuple[Hop, ...]] | None:
    """The cheapest ring and its cost; None where spans do not join from the first layer to the last.

    The closing edge ties the last stage to the first: A* over (first stage, stage), with `rest` and the least that
    closing can cost as the bound. It is exact as long as it ends within MAX_EXPANDED.
    """
    heads = graph.ranked.get(0, [])
    for _, head in heads[:NUM_FOLLOWED]:
        graph.note(_followed(graph, head))
    closing = _least_closing(graph)
    numbers = count()
    queue = [
        _State(bound, next(numbers), hop.cost, hop, hop, None)
        for rest, hop in heads
        if (bound := rest + closing[hop.node_id]) < graph.below
    ]
    queue.sort()
    seen: set[tuple[str, str]] = set()
    while queue and len(seen) < MAX_EXPANDED:
        state = heappop(queue)
        if state.bound >= graph.below:
            break
        key = (state.head.node_id, state.hop.node_id)
        if key in seen:
            continue
        seen.add(key)
        if state.hop.end == graph.num_layers:
            graph.note(_chain(state))
            continue
        left = closing[state.head.node_id]
        for delay, hop in graph.onward(state.hop, graph.below - state.paid - left):
            bound = state.paid + delay + graph.rest[hop.start][hop.node_id] + left
            heappush(queue, _State(bound, next(numbers), state.paid + delay + hop.cost, hop, state.head, state))
    return (graph.best, graph.ring) if graph.ring else None


def _followed(graph: RouteGraph, head: Hop) -> list[Hop]:
    """The cheapest way on from a head."""
    chain = [head]
    while (hop := chain[-1]).end < graph.num_layers:
        left = graph.rest[hop.start][hop.node_id] - hop.cost
        found = min(
            graph.onward(hop, left + NO_GAIN_S),
            key=lambda step: step[0] + graph.rest[step[1].start][step[1].node_id],
            default=None,
        )
        if found is None:
            return []
        chain.append(found[1])
    return chain


def _least_closing(graph: RouteGraph) -> dict[str, float]:
    """By head: the closing edge costs no less than that."""
    heads = graph.rest.get(0, {})
    tails = [hop for ranked in graph.ranked.values() for _, hop in ranked if hop.end == graph.num_layers]
    most = min((hop.usual for hop in tails), default=inf)
    closing = dict.fromkeys(heads, most)
    for hop in tails:
        useful = min(most, graph.below - graph.least_before(hop) - hop.cost)
        for node_id, delay in graph.known(hop).items():
            if delay >= useful:
                break
            if node_id in heads and delay < closing[node_id]:
                closing[node_id] = delay
    for node_id in heads:
        if graph.hops[node_id].end == graph.num_layers:
            closing[node_id] = 0.0
    return closing


def _chain(state: _State) -> list[Hop]:
    chain, at = [state.hop], state.before
    while at is not None:
        chain.append(at.hop)
        at = at.before
    return chain[::-1]
