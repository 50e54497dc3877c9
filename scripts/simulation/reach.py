"""Which clients can reach a coordinator, and when they could not."""

from collections.abc import Callable, Iterable, Sequence

from scripts.simulation.coverage import Gap
from scripts.simulation.hosts import Host
from scripts.simulation.network import Network


class Reach:
    """Follows clients' ways to coordinators.

    Args:
        network: who can speak with whom.
        clock: gives simulated seconds.
    """

    def __init__(self, network: Network, clock: Callable[[], float]) -> None:
        self._network = network
        self._clock = clock
        self._alone: dict[str, list[Gap]] = {}

    def look(self, clients: Iterable[str], coordinators: Sequence[Host]) -> None:
        """Take in how things are now."""
        for client in clients:
            times = self._alone.setdefault(client, [])
            is_alone = not any(self._network.is_reachable(client, host.id) for host in coordinators)
            was_alone = bool(times) and times[-1].ended_s is None
            if is_alone and not was_alone:
                times.append(Gap(begun_s=self._clock()))
            elif was_alone and not is_alone:
                times[-1].ended_s = self._clock()

    def alone(self, client: str) -> Sequence[Gap]:
        """Times in which a client could reach no coordinator."""
        return self._alone.get(client, ())
