"""The swarm as a coordinator sees it: nodes by their newest word, from heartbeats and from the DHT. Pure."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from osai.core.layers import LayerRange

NODE_TTL_S = 30.0  # a node that has not been heard of for as long as its DHT record lives is gone
SETTLE_S = 5.0  # so long a record that a lost node wrote before may still come: looks into the DHT are 2 s apart
MAX_REMEMBERED_LOST = 16_384  # more than can go within the life of a record, in a swarm of 10,000 nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanState:
    """One span on one node. `state` is "loading", "ready" or "failed"."""

    model_id: str
    layers: LayerRange
    manifest_digest: bytes
    dtype: str
    state: str
    verified: bool
    num_free_kv_tokens: int
    step_time_s: float
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node's newest record. `state` is "joining", "ready" or "draining"."""

    node_id: str
    address: str
    name: str
    software: str
    device: str
    memory_bytes: int
    state: str
    spans: tuple[SpanState, ...]
    sequence: int
    num_sessions: int
    started_at_s: float


@dataclass(frozen=True, slots=True)
class _Seen:
    node: NodeState
    at_s: float


@dataclass(frozen=True, slots=True)
class _Lost:
    sequence: int  # the newest that is known to be from before
    at_s: float


class Swarm:
    """Nodes that are believed to be there."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Seen] = {}
        self._lost: dict[str, _Lost] = {}

    def found(self, node: NodeState, now_s: float) -> None:
        """A record of a node in the DHT. Soon after the node was lost it may well be from before, however new it is."""
        lost = self._lost.get(node.node_id)
        if lost is not None and now_s - lost.at_s < SETTLE_S:
            self._lost[node.node_id] = _Lost(max(lost.sequence, node.sequence), lost.at_s)
        else:
            self.heard(node, now_s)

    def heard(self, node: NodeState, now_s: float) -> None:
        """A node's own word; an older one than the newest, or one from before it was lost, changes nothing."""
        seen = self._nodes.get(node.node_id)
        lost = self._lost.get(node.node_id)
        if lost is not None and node.sequence <= lost.sequence:
            return
        if seen is not None and node.sequence <= seen.node.sequence:
            return
        self._lost.pop(node.node_id, None)
        self._nodes[node.node_id] = _Seen(node, now_s)

    def lost(self, node_id: str, now_s: float) -> None:
        """A connection to the node broke: it is gone until it says something new."""
        seen = self._nodes.pop(node_id, None)
        if seen is not None:
            self._lost.pop(node_id, None)
            self._lost[node_id] = _Lost(seen.node.sequence, now_s)
            while len(self._lost) > MAX_REMEMBERED_LOST:
                del self._lost[next(iter(self._lost))]  # the one that was lost first

    def expire(self, now_s: float) -> None:
        """Forget nodes that were not heard of for NODE_TTL_S."""
        for node_id in [key for key, seen in self._nodes.items() if now_s - seen.at_s > NODE_TTL_S]:
            self.lost(node_id, now_s=-math.inf)  # silent for long: whatever comes now is new

    @property
    def nodes(self) -> tuple[NodeState, ...]:
        """Every node, in order of its id."""
        return tuple(self._nodes[node_id].node for node_id in sorted(self._nodes))

    def get(self, node_id: str) -> NodeState | None:
        """One node, if it is there."""
        seen = self._nodes.get(node_id)
        return seen.node if seen else None


def serving(nodes: Iterable[NodeState], model_id: str) -> Iterator[tuple[NodeState, SpanState]]:
    """Spans of a model that take sessions now."""
    for node in nodes:
        if node.state != "draining":
            for span in node.spans:
                if span.model_id == model_id and span.state == "ready":
                    yield node, span


def replicas(spans: Iterable[LayerRange], num_layers: int) -> tuple[int, ...]:
    """How many of `spans` hold each layer."""
    counts = [0] * num_layers
    for span in spans:
        for layer in range(span.start, min(span.end, num_layers)):
            counts[layer] += 1
    return tuple(counts)


def gaps(counts: Iterable[int]) -> tuple[LayerRange, ...]:
    """Runs of layers that nobody holds."""
    return tuple(LayerRange(start, end) for start, end, count in runs(tuple(counts)) if count == 0)


def runs(counts: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Maximal runs (start, end, count) of equal counts."""
    start = 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or counts[end] != counts[start]:
            yield start, end, counts[start]
            start = end
