"""Which nodes a session runs through: the cheapest ring of stages that there is, and who may stand by. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter

from osai.coordinator.api import StageView
from osai.coordinator.catalog import ServedModel
from osai.coordinator.routes.graph import RouteGraph
from osai.coordinator.routes.hop import Hop, hop_cost_s, shortlist
from osai.coordinator.routes.search import cheapest_ring
from osai.coordinator.swarm import NodeState, SpanState, gaps, joined, replicas, serving
from osai.core.errors import NotCoveredError
from osai.core.layers import LayerRange

STANDBY_VERSION = 2  # of the protocol: older nodes can't stand by

# What goes before time, as seconds: exact up to 400 stages, 1,000 layers and 100 stages that are short of KV.
_LAYER_S = 2.0**12  # for each layer whose KV must be computed again
_SHORT_S = 2.0**22  # for each stage that is short of KV
_SUSPECT_S = 2.0**29

Offer = tuple[NodeState, SpanState]
Kind = tuple[bytes, str]  # stages of one pipeline must have the same manifest digest and dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteWish:
    """What a session asks of its pipeline.

    Attributes:
        num_tokens: prompt and generated.
        sessions: node id -> sessions that this coordinator runs on it.
        avoid: ids of nodes that have refused the session, or were lost.
        avoid_edges: (from, to) by node ids: links that broke while both ends are there.
        kept: nodes that hold this session's KV, and of which layers: the pipeline that computes the fewest layers again
            goes first. Empty for a new session.
        suspects: ids of nodes that are used only where no other way is.
        min_version: of the protocol, that every stage must speak.
        tail_version: that the last one must speak.
        operators: public keys, of which every stage must have one as its operator's; empty: any node may do (O5).
    """

    num_tokens: int
    sessions: Mapping[str, int] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()
    avoid_edges: frozenset[tuple[str, str]] = frozenset()
    kept: Mapping[str, LayerRange] = field(default_factory=dict)
    suspects: frozenset[str] = frozenset()
    min_version: int = 1
    tail_version: int = 1
    operators: frozenset[bytes] = frozenset()


ANY = RouteWish(num_tokens=0)  # node, of any version and operator


def find_pipeline(nodes: Iterable[NodeState], model: ServedModel, wish: RouteWish) -> tuple[StageView, ...] | None:
    """The pipeline to try for a session; None where there is no way around what it avoids.

    In this order: as few suspects as can be, as few stages that by their last word have no room for the session's KV
    (that word is some seconds old, and it may share KV that is there already; the stage itself knows, and is asked), as
    few layers as can be to compute again, and then the least time for a token to go round. Ties go to the lower node
    id, so that the result depends on its input alone.

    Args:
        nodes: the swarm. What drains is not used.
        model: of which every stage must have the manifest.
        wish: what else matters.

    Raises:
        NotCoveredError: if some layer has no ready node that speaks the version and is of the operators, or the spans
            do not join end to end.
    """
    num_layers = model.facts.num_layers
    if pipeline := _route(_hops(nodes, model, wish), num_layers, wish):
        return pipeline
    offers = _offers(nodes, model, wish)
    if _joins(offers, num_layers):
        return None
    if wish.tail_version > 1 and _joins(_offers(nodes, model, replace(wish, tail_version=1)), num_layers):
        raise NotCoveredError(
            f"no ready node of the last layer of {model.model_id} speaks version {wish.tail_version} of the protocol, "
            "which a grammar, logit_bias or an embedding needs: upgrade one, or ask without"
        )
    raise _not_covered(model, offers, wish)


def find_standby(nodes: Iterable[NodeState], model: ServedModel, stage: StageView, wish: RouteWish) -> StageView | None:
    """The node that is to stand by for a stage: of the same span and kind, with room for the session's KV.

    The one with the least load goes first. A suspect is no help, and neither is one that the stage before, among
    `wish.kept`, can't reach.
    """
    offers = _offers(nodes, model, replace(wish, min_version=max(wish.min_version, STANDBY_VERSION)))
    everyone = _offers(nodes, model, ANY)
    kinds = {_kind(span) for node, span in everyone if node.node_id in {stage.node_id, *wish.kept}}
    before = [node_id for node_id, layers in wish.kept.items() if layers.end == stage.span.start]
    others = [
        (hop_s(node, span, wish), node.node_id, node)
        for node, span in offers
        if span.layers == stage.span and _kind(span) in kinds and span.num_free_kv_tokens >= wish.num_tokens
        if node.node_id not in wish.avoid | wish.suspects | wish.kept.keys() | {stage.node_id}
        if not any((node_id, node.node_id) in wish.avoid_edges for node_id in before)
    ]
    if not others:
        return None
    _, node_id, node = min(others, key=lambda other: other[:2])
    return StageView(node_id=node_id, address=node.address, span=stage.span)


def is_routable(nodes: Iterable[NodeState], model: ServedModel) -> bool:
    """Whether some pipeline joins from a model's first layer to its last."""
    return _joins(_offers(nodes, model, ANY), model.facts.num_layers)


def hop_s(node: NodeState, span: SpanState, wish: RouteWish) -> float:
    """Expected seconds of a session's step on a span, queueing included.

    Sessions are those that the node tells of, which other coordinators' are among, or this coordinator's, which are
    newer.
    """
    num_sessions = max(node.num_sessions, wish.sessions.get(node.node_id, 0))
    return hop_cost_s(span.recent_step_s or span.step_time_s, num_sessions, span.num_waiting_rows)


def _hops(nodes: Iterable[NodeState], model: ServedModel, wish: RouteWish) -> dict[str, list[list[Hop]]]:
    """By dtype and layers, what is offered and not to be avoided, with its cost. A quarter of a route's time."""
    served, num_layers = (model.model_id, model.manifest.digest), model.facts.num_layers
    avoid, operators, num_tokens = wish.avoid, wish.operators, wish.num_tokens
    dear = wish.suspects | wish.sessions.keys()
    replicas: dict[tuple[str, int, int], list[Hop]] = {}
    for node in sorted(nodes, key=attrgetter("node_id")):
        node_id, version = node.node_id, node.protocol_version
        if version < wish.min_version or node_id in avoid or (operators and node.operator not in operators):  # O5
            continue
        for hop in node.hops:
            if hop.served == served and (hop.end < num_layers or version >= wish.tail_version):
                is_usual = not wish.kept and node_id not in dear and hop.num_free_kv_tokens >= num_tokens
                replicas.setdefault(hop.kind, []).append(hop if is_usual else _priced(hop, wish))
    hops: dict[str, list[list[Hop]]] = {}
    for (dtype, _, _), some in replicas.items():
        hops.setdefault(dtype, []).append(some)
    return hops


def _offers(nodes: Iterable[NodeState], model: ServedModel, wish: RouteWish) -> list[Offer]:
    digest, min_version, operators = model.manifest.digest, wish.min_version, wish.operators
    num_layers = model.facts.num_layers
    return [
        offer
        for offer in serving(sorted(nodes, key=attrgetter("node_id")), model.model_id)
        if offer[1].manifest_digest == digest and offer[0].protocol_version >= min_version
        if offer[1].layers.end < num_layers or offer[0].protocol_version >= wish.tail_version
        if not operators or offer[0].operator in operators  # O5
    ]


def _kind(span: SpanState) -> Kind:
    return span.manifest_digest, span.dtype


def _by_kind(offers: Iterable[Offer]) -> dict[Kind, list[Offer]]:
    kinds: dict[Kind, list[Offer]] = {}
    for offer in offers:
        kinds.setdefault(_kind(offer[1]), []).append(offer)
    return {kind: kinds[kind] for kind in sorted(kinds)}


def _joins(offers: Iterable[Offer], num_layers: int) -> bool:
    return any(joined([span.layers for _, span in some], num_layers) for some in _by_kind(offers).values())


def _route(hops: Mapping[str, list[list[Hop]]], num_layers: int, wish: RouteWish) -> tuple[StageView, ...] | None:
    rings = [ring for dtype in sorted(hops) if (ring := _ring(hops[dtype], num_layers, wish)) is not None]
    if not rings:
        return None
    _, best = min(rings, key=lambda ring: ring[0])
    return tuple(
        StageView(node_id=hop.node_id, address=hop.address, span=LayerRange(hop.start, hop.end)) for hop in best
    )


def _ring(replicas: list[list[Hop]], num_layers: int, wish: RouteWish) -> tuple[float, tuple[Hop, ...]] | None:
    """The cheapest ring of one kind; of many replicas of a span the dearer are looked at only where they must be."""
    short = shortlist(replicas)
    ring = cheapest_ring(RouteGraph(short, num_layers, wish.avoid_edges))
    if ring is None and len(short) < sum(map(len, replicas)):  # all links between those were broken
        return cheapest_ring(RouteGraph([hop for some in replicas for hop in some], num_layers, wish.avoid_edges))
    return ring


def _priced(hop: Hop, wish: RouteWish) -> Hop:
    node_id, kept, besides = hop.node_id, wish.kept, 0.0
    is_kept = bool(kept) and kept.get(node_id) == LayerRange(hop.start, hop.end)
    if kept and not is_kept:
        besides += _LAYER_S * (hop.end - hop.start)
    if hop.num_free_kv_tokens < wish.num_tokens and not is_kept:
        besides += _SHORT_S
    if node_id in wish.suspects:
        besides += _SUSPECT_S
    num_sessions = wish.sessions.get(node_id, 0)
    return hop.priced(num_sessions, besides) if besides or num_sessions > hop.num_sessions else hop


def _not_covered(model: ServedModel, offers: list[Offer], wish: RouteWish) -> NotCoveredError:
    speaking = f" that speaks version {wish.min_version} of the protocol" if wish.min_version > 1 else ""
    if missing := gaps(replicas([span.layers for _, span in offers], model.facts.num_layers)):
        ranges = ", ".join(str(gap) for gap in missing)
        if wish.operators:
            return NotCoveredError(
                f"no node of the operators named{speaking} hosts layers {ranges} of {model.model_id}; try again when "
                "one has joined, or trust more operators"
            )
        return NotCoveredError(
            f"layers {ranges} of {model.model_id} have no ready node{speaking}; try again when one has joined"
        )
    whose = "spans of the operators named" if wish.operators else "spans"
    return NotCoveredError(
        f"the {whose} of {model.model_id} do not join into a pipeline of one dtype; more nodes must join"
    )
