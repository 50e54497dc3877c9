"""Nodes that are to stay after all: what they were to leave has become the only way through a model. Pure.

A move is safe when it is decided, and takes seconds: its node drains first. Where another holder of the same layers is
lost or leaves meanwhile, the move would open a gap. Until the span is withdrawn the node can still keep it.
"""

from collections.abc import Collection, Iterable, Sequence

from osai.coordinator.catalog import ServedModel
from osai.coordinator.placing.flow import joins
from osai.coordinator.swarm import NodeState, SpanState
from osai.core.layers import LayerRange

Stay = tuple[str, LayerRange]  # node id, and the layers that it serves


def recalls(model: ServedModel, nodes: Iterable[NodeState], members: Collection[str]) -> list[Stay]:
    """Who is to keep what it serves of a model that has no pipeline without it; as few nodes as it takes.

    Args:
        model: of the swarm's.
        nodes: the swarm.
        members: ids of the nodes that can be told.
    """
    kinds: dict[str, list[tuple[str, SpanState]]] = {}
    for node in nodes:
        for span in node.spans if node.state != "draining" else ():
            if span.model_id == model.model_id and span.manifest_digest in (b"", model.manifest.digest):
                kinds.setdefault(span.dtype, []).append((node.node_id, span))
    found: list[list[Stay]] = []
    for spans in kinds.values():
        firm = [span.layers for _, span in spans if span.state == "ready"]
        if _joins(firm, model):
            return []
        stays = [(name, span.layers) for name, span in spans if span.state == "draining" and name in members]
        if _joins([*firm, *(layers for _, layers in stays)], model):
            found.append(_fewest(stays, firm, model))
    return min(found, key=len, default=[])


def _fewest(stays: list[Stay], firm: Sequence[LayerRange], model: ServedModel) -> list[Stay]:
    """Without each one that the others make up for."""
    kept = list(stays)
    for stay in stays:
        others = [each for each in kept if each != stay]
        if _joins([*firm, *(layers for _, layers in others)], model):
            kept = others
    return kept


def _joins(spans: Iterable[LayerRange], model: ServedModel) -> bool:
    return joins(((span.start, span.end) for span in spans), model.facts.num_layers)
