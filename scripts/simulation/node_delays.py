"""The delays that a simulated node has measured to those that may come after it."""

from collections.abc import Callable, Sequence
from random import Random

from scripts.simulation.hosts import Host
from scripts.simulation.node_record import hosted_layers
from scripts.simulation.surroundings import Surroundings

from osai.node.delays import successors
from osai.node.membership import SpanStatus

FIRST_LOOK_S, LOOK_S = 2.0, 20.0
MAX_PEERS = 16


class NodeDelays:
    """Measures now and then; the probes themselves are left out.

    Args:
        host: the node's process.
        around: the network, and the DHT.
        spans: gives what the node hosts.
        dice: chooses among many.

    Attributes:
        estimates: seconds one way, by peer.
    """

    def __init__(
        self, host: Host, around: Surroundings, spans: Callable[[], Sequence[SpanStatus]], dice: Random
    ) -> None:
        self.estimates: dict[str, float] = {}
        self._host = host
        self._around = around
        self._spans = spans
        self._dice = dice
        host.after(FIRST_LOOK_S, self._look)

    def measure(self) -> None:
        """To those that may come after the node's spans."""
        mine = [hosted_layers(span.layers, span.manifest_digest) for span in self._spans() if span.state == "ready"]
        if not mine:
            return
        records = self._around.nodes.read(self._host)
        others = [record.neighbour for key, record in records.items() if key != self._host.id]
        peers = sorted(successors(mine, [other for other in others if other is not None]))
        chosen = peers if len(peers) <= MAX_PEERS else self._dice.sample(peers, MAX_PEERS)
        self.estimates = {peer: self._around.network.delay_s(self._host.id, peer) for peer in chosen}

    def _look(self) -> None:
        self.measure()
        self._host.after(LOOK_S * self._dice.uniform(0.8, 1.2), self._look)
