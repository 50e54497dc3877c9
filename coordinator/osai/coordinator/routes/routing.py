"""Which nodes a session runs through: the cheapest ring of stages that there is, and who may stand by. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter

from osai.coordinator.api import StageView
from osai.coordinator.catalog import ServedModel
from osai.coordinator.routes.graph import RouteGraph
from osai.coordinator.routes.hop import Hop, shortlist
from osai.coordinator.routes.search import cheapest_ring
from osai.coordinator.swarm import NodeState, gaps, joined, replicas
from osai.core.errors import NotCoveredError
from osai.core.layers import LayerRange

STANDBY_VERSION = 2  # of the protocol: older nodes can't stand by

# What goes before time, as seconds: exact up to 400 stages, 1,000 layers and 100 stages that are short of KV.
_LAYER_S = 2.0**12  # for each layer whose KV must be computed again
_SHORT_S = 2.0**22  # for each stage that is short of KV
_SUSPECT_S = 2.0**29


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
    if pipeline := _route(_replicas(_offers(nodes, model, wish), wish), num_layers, wish):
        return pipeline
    offers = list(_offers(nodes, model, wish))
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
    theirs = {stage.node_id, *wish.kept}
    dtypes = {hop.dtype for hop in _offers(nodes, model, ANY) if hop.node_id in theirs}
    before = [node_id for node_id, layers in wish.kept.items() if layers.end == stage.span.start]
    no_help = wish.avoid | wish.suspects | theirs
    others = [
        hop.busy(wish.sessions.get(hop.node_id, 0))
        for hop in offers
        if hop.layers == stage.span and hop.dtype in dtypes and hop.num_free_kv_tokens >= wish.num_tokens
        if hop.node_id not in no_help and not any((node_id, hop.node_id) in wish.avoid_edges for node_id in before)
    ]
    best = min(others, key=lambda hop: (hop.cost, hop.node_id), default=None)
    return None if best is None else _stage(best)


def is_routable(nodes: Iterable[NodeState], model: ServedModel) -> bool:
    """Whether some pipeline joins from a model's first layer to its last."""
    return _joins(_offers(nodes, model, ANY), model.facts.num_layers)


def _offers(nodes: Iterable[NodeState], model: ServedModel, wish: RouteWish) -> Iterator[Hop]:
    """What may serve a session, in order of the nodes' ids, those to be avoided too."""
    served, num_layers = (model.model_id, model.manifest.digest), model.facts.num_layers
    min_version, tail_version, operators = wish.min_version, wish.tail_version, wish.operators
    for node in sorted(nodes, key=attrgetter("node_id")):
        version = node.protocol_version
        if version < min_version or (operators and node.operator not in operators):  # O5
            continue
        for hop in node.hops:
            if hop.served == served and (hop.end < num_layers or version >= tail_version):
                yield hop


def _replicas(hops: Iterable[Hop], wish: RouteWish) -> dict[str, list[list[Hop]]]:
    """By dtype and layers, what is not to be avoided, with its cost for this session."""
    avoid, num_tokens, dear = wish.avoid, wish.num_tokens, wish.suspects | wish.sessions.keys()
    by_kind: dict[tuple[str, int, int], list[Hop]] = {}
    for hop in hops:
        if hop.node_id not in avoid:
            is_usual = not wish.kept and hop.node_id not in dear and hop.num_free_kv_tokens >= num_tokens
            by_kind.setdefault(hop.kind, []).append(hop if is_usual else _priced(hop, wish))
    by_dtype: dict[str, list[list[Hop]]] = {}
    for (dtype, _, _), some in by_kind.items():
        by_dtype.setdefault(dtype, []).append(some)
    return by_dtype


def _joins(hops: Iterable[Hop], num_layers: int) -> bool:
    spans: dict[str, list[LayerRange]] = {}
    for hop in hops:
        spans.setdefault(hop.dtype, []).append(hop.layers)
    return any(joined(some, num_layers) for some in spans.values())


def _stage(hop: Hop) -> StageView:
    return StageView(node_id=hop.node_id, address=hop.address, span=hop.layers)


def _route(offered: Mapping[str, list[list[Hop]]], num_layers: int, wish: RouteWish) -> tuple[StageView, ...] | None:
    rings = [ring for dtype in sorted(offered) if (ring := _ring(offered[dtype], num_layers, wish)) is not None]
    if not rings:
        return None
    _, best = min(rings, key=lambda ring: ring[0])
    return tuple(_stage(hop) for hop in best)


def _ring(offered: list[list[Hop]], num_layers: int, wish: RouteWish) -> tuple[float, tuple[Hop, ...]] | None:
    """The cheapest ring of one kind; of many replicas of a span the dearer are looked at only where they must be."""
    short = shortlist(offered)
    ring = cheapest_ring(RouteGraph(short, num_layers, wish.avoid_edges))
    if ring is None and len(short) < sum(map(len, offered)):  # all links between those were broken
        return cheapest_ring(RouteGraph([hop for some in offered for hop in some], num_layers, wish.avoid_edges))
    return ring


def _priced(hop: Hop, wish: RouteWish) -> Hop:
    node_id, kept, besides = hop.node_id, wish.kept, 0.0
    is_kept = bool(kept) and kept.get(node_id) == hop.layers
    if kept and not is_kept:
        besides += _LAYER_S * (hop.end - hop.start)
    if hop.num_free_kv_tokens < wish.num_tokens and not is_kept:
        besides += _SHORT_S
    if node_id in wish.suspects:
        besides += _SUSPECT_S
    hop = hop.busy(wish.sessions.get(node_id, 0))
    return hop._replace(cost=hop.cost + besides) if besides else hop


def _not_covered(model: ServedModel, offers: Iterable[Hop], wish: RouteWish) -> NotCoveredError:
    speaking = f" that speaks version {wish.min_version} of the protocol" if wish.min_version > 1 else ""
    if missing := gaps(replicas([hop.layers for hop in offers], model.facts.num_layers)):
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
