"""Which nodes a session runs through: a shortest path over layer boundaries. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from osai.coordinator.api import StageView
from osai.coordinator.catalog import ServedModel
from osai.coordinator.swarm import NodeState, SpanState, gaps, replicas, serving
from osai.core.errors import NotCoveredError
from osai.core.layers import LayerRange

HOP_S = 0.005  # of one edge, until delays between peers are measured: makes fewer stages win over slightly faster ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One span that may be a stage.

    Attributes:
        kind: stages of one pipeline must have the same (manifest digest, dtype).
        num_free_kv_tokens: what the node could still set aside, by its last word.
        cost_s: expected seconds of a step on it, queueing included.
    """

    node_id: str
    address: str
    layers: LayerRange
    kind: tuple[bytes, str]
    num_free_kv_tokens: int
    cost_s: float

    @classmethod
    def of(cls, node: NodeState, span: SpanState, num_sessions: int) -> Self:
        """The hop of a ready span on a node that runs `num_sessions` sessions."""
        return cls(
            node_id=node.node_id,
            address=node.address,
            layers=span.layers,
            kind=(span.manifest_digest, span.dtype),
            num_free_kv_tokens=span.num_free_kv_tokens,
            cost_s=HOP_S + span.step_time_s * (1 + num_sessions),
        )


def find_pipeline(
    nodes: Iterable[NodeState], model: ServedModel, num_tokens: int, sessions: Mapping[str, int], avoid: Iterable[str]
) -> tuple[StageView, ...] | None:
    """The pipeline to try for a session of `num_tokens`; None where there is no way around the nodes to avoid.

    Args:
        nodes: the swarm.
        model: of which every stage must have the manifest.
        num_tokens: prompt and generated.
        sessions: node id -> sessions that this coordinator runs on it.
        avoid: ids of nodes that have refused the session.

    Raises:
        NotCoveredError: if some layer has no ready node, or the spans do not join end to end.
    """
    digest, num_layers = model.manifest.digest, model.facts.num_layers
    hops = [
        Hop.of(node, span, sessions.get(node.node_id, 0))
        for node, span in serving(nodes, model.model_id)
        if span.manifest_digest == digest
    ]
    avoided = frozenset(avoid)
    if pipeline := route((hop for hop in hops if hop.node_id not in avoided), num_layers, num_tokens):
        return pipeline
    if avoided:
        return None
    missing = gaps(replicas([hop.layers for hop in hops], num_layers))
    if missing:
        ranges = ", ".join(str(gap) for gap in missing)
        raise NotCoveredError(f"layers {ranges} of {model.model_id} have no ready node; try again when one has joined")
    raise NotCoveredError(
        f"the spans of {model.model_id} do not join into a pipeline of one dtype; more nodes must join"
    )


_Cost = tuple[int, float]  # stages that are short of KV, seconds: compared in this order


def route(hops: Iterable[Hop], num_layers: int, num_tokens: int) -> tuple[StageView, ...] | None:
    """The cheapest chain of spans from layer 0 to `num_layers`, of one kind, as few as can be short of KV.

    A stage that by its last word has no room for `num_tokens` is taken only where no other way is: that word is some
    seconds old, and the session may share KV that is there already. The stage itself knows, and is asked.

    Dynamic programming over layer boundaries: a span leads from its start to its end, always forward, so that one pass
    in order of starts is enough. Ties go to the lower node id, so that the result depends on its input alone.
    """
    by_kind: dict[tuple[bytes, str], list[Hop]] = {}
    for hop in hops:
        by_kind.setdefault(hop.kind, []).append(hop)
    chains = [chain for kind in sorted(by_kind) if (chain := _cheapest(by_kind[kind], num_layers, num_tokens))]
    if not chains:
        return None
    _, best = min(chains, key=lambda chain: chain[0])
    return tuple(StageView(node_id=hop.node_id, address=hop.address, span=hop.layers) for hop in best)


def _cheapest(hops: list[Hop], num_layers: int, num_tokens: int) -> tuple[_Cost, list[Hop]] | None:
    best: dict[int, tuple[_Cost, list[Hop]]] = {0: ((0, 0.0), [])}
    for hop in sorted(hops, key=lambda hop: (hop.layers.start, hop.layers.end, hop.node_id)):
        at = best.get(hop.layers.start)
        if at is None:
            continue
        (num_short, cost_s), chain = at
        cost = (num_short + (hop.num_free_kv_tokens < num_tokens), cost_s + hop.cost_s)
        if hop.layers.end not in best or cost < best[hop.layers.end][0]:
            best[hop.layers.end] = (cost, [*chain, hop])
    return best.get(num_layers)
