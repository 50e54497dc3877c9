"""Which layers a node that joins is to host. Pure.

Spans tile each level of replication from the front: the new span begins where the least replicated run of layers
begins, so that the spans of a level always join end to end into a pipeline.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from osai.coordinator.swarm import runs
from osai.core.layers import LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What a model's parts take on a node, in bytes of the precision that the node runs in.

    Attributes:
        layer_bytes: weights of each layer, and KV of one full context on it.
        head_bytes: what the node of layer 0 holds besides (the embedding).
        tail_bytes: what the node of the last layer holds besides (norm, LM head).
    """

    layer_bytes: tuple[int, ...]
    head_bytes: int
    tail_bytes: int

    def span_bytes(self, span: LayerRange) -> int:
        """What a span takes."""
        head = self.head_bytes if span.start == 0 else 0
        tail = self.tail_bytes if span.end == len(self.layer_bytes) else 0
        return sum(self.layer_bytes[span.start : span.end]) + head + tail


def place(size: ModelSize, replicas: Sequence[int], memory_bytes: int) -> LayerRange | None:
    """The span for a node of `memory_bytes`: of the least replicated layers, as many as fit.

    Guarantees, as long as nodes only join, whatever their order and memory:
    - The span never exceeds the memory, and there is one unless not one layer fits.
    - It never reaches from uncovered layers into covered ones. So the spans that closed gaps tile the model without
      overlap, and once every layer is covered they join end to end into a pipeline.
    - It closes a gap, at least in part, unless no uncovered layer fits. Where every node could hold any one layer, the
      model is covered at the latest when the sum over them of (memory - largest layer) reaches its size, embedding and
      head included: at each cut less than the next layer is left over. Layers of one size without embedding and head
      leave nothing over: then it is covered as soon as the nodes can hold as many layers as there are.

    When nodes leave, what is left may cover every layer and yet not join; the next node starts at the weakest layers.

    Args:
        size: of the model.
        replicas: nodes that host each layer, those that still load it included.
        memory_bytes: what the node has for weights and KV.

    Returns:
        The span, or None where not even one layer fits.
    """
    # Weakest layers first. Of several runs the one with the largest layer (the embedding counts), since fewer nodes can
    # take it, then the longest. Further ones only where nothing of the weaker ones fits.
    candidates = sorted(
        runs(tuple(replicas)), key=lambda run: (run[2], -_largest(size, *run[:2]), run[0] - run[1], run)
    )
    spans = (_fit(size, start, end, memory_bytes) for start, end, _ in candidates)
    return next((span for span in spans if span is not None), None)


def _fit(size: ModelSize, start: int, end: int, memory_bytes: int) -> LayerRange | None:
    """As many layers of [start, end) as fit, from the first one that does."""
    for first in range(start, end):
        span = None
        for stop in range(first + 1, end + 1):
            longer = LayerRange(first, stop)
            if size.span_bytes(longer) > memory_bytes:
                break
            span = longer
        if span is not None:
            return span
    return None


def _largest(size: ModelSize, start: int, end: int) -> int:
    return max(size.span_bytes(LayerRange(layer, layer + 1)) for layer in range(start, end))
