"""The swarm as the planner sees it: for each model and precision, who holds what and who could hold more. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from osai.coordinator.catalog import ServedModel
from osai.coordinator.placing.hosts import Host, Hosts
from osai.coordinator.placing.members import Member, Wish
from osai.coordinator.placing.placement import ModelSize
from osai.coordinator.swarm import NodeState, SpanState
from osai.core.errors import InvalidRequestError
from osai.core.layers import LayerRange
from osai.core.precision import AUTO, ITEM_BYTES, Precision, parse_precision

UNKNOWN_LAYER_S = 0.01  # of a node whose step nobody has measured, where there is no other to guess by
SMALLER = 0.75  # of the memory that a span would have taken which failed to load: the next one is to be smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One model: its hosts by the precision that they run in; a pipeline is of one precision."""

    model_id: str
    kinds: Mapping[str, Hosts]


Key = tuple[str, str]  # node id, model id
_Row = tuple[str, NodeState, SpanState | None]  # the precision's name, the node, its span of the model


class Sizes:
    """What models take, by precision: reckoned once, from the whole manifest."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = {model.model_id: model for model in models}
        self._known: dict[tuple[str, str], ModelSize] = {}

    def kind(self, model_id: str, precision: Precision) -> str:
        """The precision's name, once the checkpoint's own dtype is put in for `auto`."""
        dtype = self.models[model_id].facts.dtype if precision.dtype == AUTO else precision.dtype
        return str(Precision(dtype=dtype if dtype in ITEM_BYTES else AUTO, quantization=precision.quantization))

    def size(self, model_id: str, kind: str) -> ModelSize:
        """What the model's parts take."""
        if (model_id, kind) not in self._known:
            self._known[model_id, kind] = self.models[model_id].size(parse_precision(kind))
        return self._known[model_id, kind]

    def budget(self, member: Member) -> int:
        """Memory of one span whose layers the member's operator has left to the coordinator."""
        pinned = {wish.model_id: self._pinned(wish, member) for wish in member.wishes if wish.layers is not None}
        return member.budget_bytes(pinned)

    def _pinned(self, wish: Wish, member: Member) -> int:
        model_id = wish.model_id or next(iter(self.models), "")
        if model_id not in self.models or wish.layers is None:
            return 0
        return self.size(model_id, self.kind(model_id, member.precision)).span_bytes(wish.layers)


def read_board(
    sizes: Sizes,
    model_id: str,
    nodes: Iterable[NodeState],
    members: Mapping[str, Member],
    *,
    ordered: Mapping[Key, LayerRange],
    refused: Mapping[Key, frozenset[LayerRange]],
) -> Board:
    """One model's board.

    Args:
        sizes: of the models served.
        model_id: of the model.
        nodes: the swarm.
        members: nodes that this coordinator can move.
        ordered: what nodes were told to host and have not spoken of yet.
        refused: spans that nodes could not load lately.
    """
    model = sizes.models[model_id]
    rows = list(_rows(sizes, model, nodes, members))
    kinds: dict[str, list[Host]] = {}
    guesses = _layer_s(rows)
    for kind, node, span in rows:
        member, key = members.get(node.node_id), (node.node_id, model_id)
        layers = ordered.get(key) or (_layers(span) if span is not None else None)
        if layers is None and (member is None or not _has_room(member, model_id, node)):
            continue
        size, failed = sizes.size(model_id, kind), refused.get(key, frozenset())
        host = Host(
            node_id=node.node_id,
            memory_bytes=_budget(sizes, size, member, failed),
            layer_s=_own_layer_s(span) or guesses.get(kind, UNKNOWN_LAYER_S),
            layers=layers if layers is None or layers.end <= model.facts.num_layers else None,
            ready=key not in ordered and span is not None and span.state == "ready",
            movable=member is not None and member.may_move(model_id) and (span is None or span.state != "draining"),
            refused=failed,
        )
        kinds.setdefault(kind, []).append(host)
    return Board(
        model_id=model_id,
        kinds={kind: Hosts(sizes.size(model_id, kind), tuple(kinds[kind])) for kind in sorted(kinds)},
    )


def _rows(
    sizes: Sizes, model: ServedModel, nodes: Iterable[NodeState], members: Mapping[str, Member]
) -> Iterator[_Row]:
    """Nodes that hold a span of these very weights or none, each with its precision."""
    for node in nodes:
        span = next((span for span in node.spans if span.model_id == model.model_id), None)
        if node.state == "draining" or (span is not None and span.manifest_digest not in (b"", model.manifest.digest)):
            continue
        kind = _kind_of(sizes, model.model_id, span, members.get(node.node_id))
        if kind is not None:
            yield kind, node, span


def _budget(sizes: Sizes, size: ModelSize, member: Member | None, failed: Collection[LayerRange]) -> int:
    """What a span may take: less than those which the node could not load."""
    budget = sizes.budget(member) if member is not None else 0
    return min([budget, *(int(size.span_bytes(layers) * SMALLER) for layers in failed)]) if failed else budget


def _kind_of(sizes: Sizes, model_id: str, span: SpanState | None, member: Member | None) -> str | None:
    """None where it can't be told, or is of a newer release."""
    if span is not None and span.dtype:
        return span.dtype if is_known_kind(span.dtype) else None
    if member is not None:
        return sizes.kind(model_id, member.precision)
    return sizes.kind(model_id, Precision(dtype=AUTO)) if span is not None else None


def is_known_kind(kind: str) -> bool:
    """Whether it is the name of a precision."""
    try:
        parse_precision(kind)
    except InvalidRequestError:
        return False
    return True


def _has_room(member: Member, model_id: str, node: NodeState) -> bool:
    """Whether a member that holds nothing of a model has a wish open that a span of it would meet."""
    if not member.may_move(model_id):
        return False
    named = {wish.model_id for wish in member.wishes}
    if model_id in named:
        return True
    held = {span.model_id for span in node.spans if span.state != "failed"}
    return "" in named and held <= named


def _layers(span: SpanState) -> LayerRange | None:
    """What a node holds of the model, or is to hold as soon as it can."""
    if span.state == "draining":
        return span.next
    return span.layers if span.state in ("loading", "ready") else None


def _own_layer_s(span: SpanState | None) -> float:
    return span.step_time_s / len(span.layers) if span is not None else 0.0


def _layer_s(rows: Iterable[_Row]) -> dict[str, float]:
    """The usual seconds of a layer, by precision."""
    known: dict[str, list[float]] = {}
    for kind, _, span in rows:
        if layer_s := _own_layer_s(span):
            known.setdefault(kind, []).append(layer_s)
    return {kind: median(values) for kind, values in known.items()}
