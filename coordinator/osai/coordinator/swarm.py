"""The swarm as a coordinator sees it: nodes by their newest word, from heartbeats and from the DHT. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from osai.coordinator.suspicion import Watch
from osai.coordinator.swarm_state import NodeState, SpanState
from osai.core.layers import LayerRange

__all__ = ["NodeState", "SpanState", "Swarm", "gaps", "joined", "replicas", "runs", "served", "serving"]

NODE_TTL_S = 15.0  # a node announces itself every 5 s: one that has not been heard of three times is gone
SETTLE_S = 5.0  # so long a record that a lost node wrote before may still come: looks into the DHT are 2 s apart
FORGET_S = 60.0  # after that nothing from before can come, and who has set its clock back is heard again
MAX_NODES = 16_384  # identities cost nothing: records of more would fill the memory
MAX_REMEMBERED_LOST = 16_384  # more than can go within the life of a record, in a swarm of 10,000 nodes


@dataclass(frozen=True, slots=True)
class _Seen:
    node: NodeState
    at_s: float
    watch: Watch


@dataclass(frozen=True, slots=True)
class _Lost:
    sequence: int  # the newest that is known to be from before
    at_s: float
    is_settled: bool  # whatever comes from now on is new
    started_at_s: float  # of the incarnation that was lost, by its own clock


class Swarm:
    """Nodes that are believed to be there. Every `now_s` is this coordinator's monotonic clock."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Seen] = {}
        self._lost: dict[str, _Lost] = {}

    def found(self, node: NodeState, now_s: float) -> None:
        """A record of a node in the DHT. Soon after the node was lost it may well be from before, however new it is.

        Not if the node was started anew since.
        """
        lost = self._lost.get(node.node_id)
        is_fresh = lost is None or lost.is_settled or node.started_at_s > lost.started_at_s
        if lost is not None and not is_fresh and now_s - lost.at_s < SETTLE_S:
            self._lost[node.node_id] = replace(lost, sequence=max(lost.sequence, node.sequence))
        else:
            self._take(node, now_s, directly=False)

    def heard(self, node: NodeState, now_s: float) -> None:
        """A node's own word; an older one than the newest, or one from before it was lost, changes nothing.

        So of two processes with one id the one that was started later counts, and a former incarnation is not heard.
        """
        self._take(node, now_s, directly=True)

    def _take(self, node: NodeState, now_s: float, *, directly: bool) -> None:
        seen = self._nodes.get(node.node_id)
        lost = self._lost.get(node.node_id)
        if lost is not None and node.sequence <= lost.sequence and now_s - lost.at_s < FORGET_S:
            return
        if seen is not None and node.sequence <= seen.node.sequence:
            return
        if seen is None and len(self._nodes) >= MAX_NODES and not (directly and self._make_room()):
            return
        self._lost.pop(node.node_id, None)
        watch = seen.watch if seen is not None else Watch()
        watch.told(node, now_s, directly=directly)
        self._nodes[node.node_id] = _Seen(node, now_s, watch)

    def _make_room(self) -> bool:
        """Forget the node that was heard of longest ago, of those that have no control stream here."""
        others = {node_id: seen.at_s for node_id, seen in self._nodes.items() if not seen.watch.is_here}
        if others:
            del self._nodes[min(others, key=others.__getitem__)]
        return bool(others)

    def lost(self, node_id: str, now_s: float) -> None:
        """A connection to the node broke: it is gone until it says something new."""
        self._lose(node_id, now_s, is_settled=False)

    def _lose(self, node_id: str, now_s: float, *, is_settled: bool) -> None:
        seen = self._nodes.pop(node_id, None)
        if seen is not None:
            self._lost.pop(node_id, None)
            self._lost[node_id] = _Lost(seen.node.sequence, now_s, is_settled, seen.node.started_at_s)
            while len(self._lost) > MAX_REMEMBERED_LOST:
                del self._lost[next(iter(self._lost))]  # the one that was lost first

    def expire(self, now_s: float) -> None:
        """Forget nodes that were not heard of for NODE_TTL_S."""
        for node_id in [key for key, seen in self._nodes.items() if now_s - seen.at_s > NODE_TTL_S]:
            self._lose(node_id, now_s, is_settled=True)  # silent for long: whatever comes now is new

    def expects(self, now_s: float) -> bool:
        """Whether a connection broke of late to a node that has not come back: the network may be split."""
        return any(not lost.is_settled and now_s - lost.at_s < FORGET_S for lost in self._lost.values())

    def suspects(self, now_s: float) -> frozenset[str]:
        """Ids of nodes that are slow, stuck or silent, though not lost: to be used only where no other way is."""
        return frozenset(node_id for node_id, seen in self._nodes.items() if seen.watch.is_suspect(now_s))

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


def served(node: NodeState | None) -> frozenset[tuple[str, LayerRange]]:
    """Models and layers of what a node serves; nothing where there is no node."""
    spans = node.spans if node is not None and node.state != "draining" else ()
    return frozenset((span.model_id, span.layers) for span in spans if span.state == "ready")


def joined(spans: Iterable[LayerRange], num_layers: int) -> bool:
    """Whether some of `spans` join end to end, from layer 0 to `num_layers`."""
    reached = {0}
    for start, end in sorted({(span.start, span.end) for span in spans}):
        if start in reached:
            reached.add(end)
    return num_layers in reached


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
