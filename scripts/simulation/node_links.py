"""The links that a simulated node has dialled, one for each peer and lane, as osai.core.link_pool holds them."""

from collections.abc import Callable

from scripts.simulation.connection import End
from scripts.simulation.edge import host_at
from scripts.simulation.hosts import Host
from scripts.simulation.network import EDGE, Network

Key = tuple[str, str]  # peer, lane


class NodeLinks:
    """Dials peers on demand.

    Args:
        network: to dial over.
        host: who dials.
        on_message: gets a peer's id and what it sends back.
        on_lost: gets the id of a peer whose link has ended.
    """

    def __init__(
        self, network: Network, host: Host, on_message: Callable[[str, object], None], on_lost: Callable[[str], None]
    ) -> None:
        self._network = network
        self._host = host
        self._on_message = on_message
        self._on_lost = on_lost
        self._ends: dict[Key, End] = {}
        self._queued: dict[Key, list[object]] = {}

    def send(self, peer: str, address: str, lane: str, message: object) -> None:
        """Send a message; it waits while its link is dialled."""
        key = (peer, lane)
        end = self._ends.get(key)
        if end is not None:
            end.send(message)
        elif key in self._queued:
            self._queued[key].append(message)
        else:
            self._queued[key] = [message]
            self._network.dial(self._host, host_at(address), EDGE, lambda dialled: self._dialled(key, dialled))

    def _dialled(self, key: Key, end: End | None) -> None:
        queued = self._queued.pop(key)
        if end is None:
            self._on_lost(key[0])
            return
        self._ends[key] = end
        end.on_message = lambda message: self._on_message(key[0], message)
        end.on_closed = lambda: self._closed(key)
        for message in queued:
            end.send(message)

    def _closed(self, key: Key) -> None:
        self._ends.pop(key, None)
        self._on_lost(key[0])
