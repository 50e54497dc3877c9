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
    """What a model's parts take on a node, in bytes of the dtype that the node runs in.

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

    Args:
        size: of the model.
        replicas: nodes that host each layer, those that still load it included.
        memory_bytes: what the node has for weights and KV.

    Returns:
        The span, or None where not even one layer fits.
    """
    counts = tuple(replicas)
    weakest = min(counts)
    candidates = [(start, end) for start, end, count in runs(counts) if count == weakest]
    for start, end in sorted(candidates, key=lambda run: (run[0] - run[1], run[0])):  # longest run first
        for stop in range(end, start, -1):
            span = LayerRange(start, stop)
            if size.span_bytes(span) <= memory_bytes:
                return span
    return None
