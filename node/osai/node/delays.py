"""One-way delays to the peers that this node may push to: whom to probe, when, and what follows. Pure.

A probe goes to the peer and back; half of the least round trip of the last few is the delay. The least, because what a
message waits for on its way is no part of the distance.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from osai.core.layers import LayerRange
from osai.node.stages.stage import Peer

MAX_PEERS = 16  # links that are kept for it; routing takes other peers of a span to be as far as these
ROUND_S = 10.0  # between rounds of probes to a peer, give or take a fifth: nodes that start together do not keep step
NUM_PROBES = 3  # of a round, one after the other: the first may have to dial
NUM_KEPT = 2 * NUM_PROBES  # round trips: a way that has become longer shows after two rounds
MIN_KEPT = 2  # before a delay is told: the first round trip dials
ANSWER_S = 5.0  # a probe that is not back is lost
MAX_BACKOFF_S = 300.0  # between probes to a peer that does not answer; its record in the DHT lapses long before


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedLayers:
    """A ready span of some node."""

    model_id: str
    manifest_digest: bytes
    layers: LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A node and what it hosts."""

    peer: Peer
    spans: tuple[HostedLayers, ...]


def successors(mine: Sequence[HostedLayers], others: Sequence[Neighbour]) -> dict[str, Peer]:
    """Peers that may come after a span of this node: those that begin where it ends, and heads for a tail.

    The last layer is the last one that anybody hosts: no ring closes before it is there.
    """
    found: dict[str, Peer] = {}
    for span in mine:
        model = (span.model_id, span.manifest_digest)
        theirs = [
            (other.peer, each.layers)
            for other in others
            for each in other.spans
            if (each.model_id, each.manifest_digest) == model
        ]
        end = max([span.layers.end, *(layers.end for _, layers in theirs)])
        is_tail = span.layers.end == end and span.layers.start > 0
        for peer, layers in theirs:
            if layers.start == span.layers.end or (is_tail and layers.start == 0 and layers.end < end):
                found[peer.node_id] = peer
    return found


@dataclass(slots=True)
class _Probed:
    peer: Peer
    next_s: float
    num_left: int = NUM_PROBES  # of this round
    asked_s: float | None = None  # a probe is under way
    num_lost: int = 0  # in a row
    round_trips: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_KEPT))


class Delays:
    """What is known of the delays to some peers.

    Args:
        random: whom to choose where there are too many peers, and the jitter.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._probed: dict[str, _Probed] = {}

    def found(self, peers: Mapping[str, Peer], now_s: float) -> None:
        """The peers that there are now. Those that are probed already stay, as long as they are among them."""
        self._probed = {key: probed for key, probed in self._probed.items() if peers.get(key) == probed.peer}
        others = sorted(peers.keys() - self._probed.keys())
        room = max(MAX_PEERS - len(self._probed), 0)
        for node_id in self._random.sample(others, min(room, len(others))):
            self._probed[node_id] = _Probed(peers[node_id], next_s=now_s)

    def due(self, now_s: float) -> list[Peer]:
        """Whom to probe now."""
        asked = []
        for probed in self._probed.values():
            if probed.asked_s is not None and now_s - probed.asked_s > ANSWER_S:
                self._lost(probed, now_s)
            if probed.asked_s is None and now_s >= probed.next_s:
                probed.asked_s = now_s
                asked.append(probed.peer)
        return asked

    def echoed(self, node_id: str, round_trip_s: float, now_s: float) -> Peer | None:
        """A probe has come back; the peer, if it is to be probed again at once."""
        probed = self._probed.get(node_id)
        if probed is None or probed.asked_s is None or not 0 <= round_trip_s <= ANSWER_S:
            return None
        probed.round_trips.append(round_trip_s)
        probed.asked_s, probed.num_lost = None, 0
        probed.num_left -= 1
        if probed.num_left > 0:
            probed.asked_s = now_s
            return probed.peer
        self._rest(probed, now_s, ROUND_S)
        return None

    def estimates(self) -> dict[str, float]:
        """One-way seconds by node id, of peers that answer."""
        return {
            node_id: min(probed.round_trips) / 2
            for node_id, probed in self._probed.items()
            if len(probed.round_trips) >= MIN_KEPT
        }

    def _lost(self, probed: _Probed, now_s: float) -> None:
        probed.asked_s, probed.num_lost = None, probed.num_lost + 1
        probed.round_trips.clear()
        self._rest(probed, now_s, min(ROUND_S * 2**probed.num_lost, MAX_BACKOFF_S))

    def _rest(self, probed: _Probed, now_s: float, seconds: float) -> None:
        probed.num_left = NUM_PROBES
        probed.next_s = now_s + seconds * self._random.uniform(0.8, 1.2)
