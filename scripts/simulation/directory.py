"""The DHT: records under members' ids, stored late, lapsing, and out of reach behind a partition."""

from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from scripts.simulation.hosts import Host
from scripts.simulation.network import Network

T = TypeVar("T")

STORE_S = (0.05, 0.8)  # a store takes some lookups across the world
NUM_VERSIONS = 3  # of a member's record that are remembered: who is cut off reads an older one


@dataclass(frozen=True, slots=True)
class _Stored(Generic[T]):
    value: T
    at_s: float
    expiry_s: float  # by the writer's wall clock, as hivemind's records have it


class SimulatedDirectory(Generic[T]):
    """One key of the DHT.

    Args:
        network: who can reach whom.
        dice: how long a store takes.
    """

    def __init__(self, network: Network, dice: Random) -> None:
        self._network = network
        self._dice = dice
        self._records: dict[str, deque[_Stored[T]]] = {}
        self._last: dict[str, _Stored[T]] = {}

    def announce(self, host: Host, value: T, ttl_s: float) -> None:
        """A member stores its record."""
        expiry_s = host.wall_s() + ttl_s
        self._network.loop.call_later(self._dice.uniform(*STORE_S), self._store, host, value, expiry_s)

    def read(self, reader: Host) -> dict[str, T]:
        """What a member reads: the newest of each that reached its part of the DHT, if it has not lapsed."""
        now_s = reader.wall_s()
        if self._network.is_whole:
            return {member: last.value for member, last in self._last.items() if last.expiry_s > now_s}
        found = {}
        for member, versions in self._records.items():
            since_s = self._network.blocked_since(member, reader.id)
            for stored in reversed(versions):
                if since_s is None or stored.at_s <= since_s:
                    if stored.expiry_s > now_s:
                        found[member] = stored.value
                    break
        return found

    def _store(self, host: Host, value: T, expiry_s: float) -> None:
        if not host.alive:
            return
        versions = self._records.setdefault(host.id, deque(maxlen=NUM_VERSIONS))
        if versions and versions[-1].expiry_s > expiry_s:
            return  # the DHT keeps the record with the latest expiry
        stored = self._last[host.id] = _Stored(value, self._network.loop.now, expiry_s)
        versions.append(stored)
