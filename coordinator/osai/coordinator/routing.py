"""Which nodes a session runs through: a shortest path over layer boundaries. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from osai.coordinator.api import StageView
from osai.coordinator.swarm import NodeState, SpanState
from osai.core.layers import LayerRange

HOP_S = 0.005  # of one edge, until delays between peers are measured: makes fewer stages win over slightly faster ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One span that may be a stage.

    Attributes:
        kind: stages of one pipeline must have the same (manifest digest, dtype).
        num_free_kv_tokens: what the node could still set aside.
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


def route(hops: Iterable[Hop], num_layers: int, num_tokens: int) -> tuple[StageView, ...] | None:
    """The cheapest chain of spans from layer 0 to `num_layers`, of one kind, with room for `num_tokens` each.

    Dynamic programming over layer boundaries: a span leads from its start to its end, always forward, so that one pass
    in order of starts is enough. Ties go to the lower node id, so that the result depends on its input alone.
    """
    by_kind: dict[tuple[bytes, str], list[Hop]] = {}
    for hop in hops:
        if hop.num_free_kv_tokens >= num_tokens:
            by_kind.setdefault(hop.kind, []).append(hop)
    chains = [chain for kind in sorted(by_kind) if (chain := _cheapest(by_kind[kind], num_layers))]
    if not chains:
        return None
    best = min(chains, key=lambda chain: sum(hop.cost_s for hop in chain))
    return tuple(StageView(node_id=hop.node_id, address=hop.address, span=hop.layers) for hop in best)


def _cheapest(hops: list[Hop], num_layers: int) -> list[Hop] | None:
    best: dict[int, tuple[float, list[Hop]]] = {0: (0.0, [])}
    for hop in sorted(hops, key=lambda hop: (hop.layers.start, hop.layers.end, hop.node_id)):
        at = best.get(hop.layers.start)
        if at is None:
            continue
        cost = at[0] + hop.cost_s
        if hop.layers.end not in best or cost < best[hop.layers.end][0]:
            best[hop.layers.end] = (cost, [*at[1], hop])
    return best[num_layers][1] if num_layers in best else None
