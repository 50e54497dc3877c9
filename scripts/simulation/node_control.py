"""A simulated node's control stream: to one coordinator at a time, as osai.node.control holds it."""

from collections.abc import Callable, Sequence

from scripts.simulation.connection import End
from scripts.simulation.control import CONTROL, Refusal, Welcomed
from scripts.simulation.hosts import Host
from scripts.simulation.surroundings import Surroundings

from osai.node.membership import Assigned

Told = Welcomed | Assigned | Refusal


class NodeControl:
    """Dials coordinators in turn.

    Args:
        host: the node's process.
        around: the network, and the DHT, which tells of more coordinators.
        coordinators: ids of those that the node was told of.
        on_connected: called when one has answered.
        on_message: gets what it says.
        on_lost: called when nobody answers, or the stream has broken.
    """

    def __init__(
        self,
        host: Host,
        around: Surroundings,
        coordinators: Sequence[str],
        on_connected: Callable[[], None],
        on_message: Callable[[Told], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._host = host
        self._around = around
        self._coordinators = list(coordinators)
        self._on_connected = on_connected
        self._on_message = on_message
        self._on_lost = on_lost
        self._end: End | None = None

    def hold(self) -> None:
        """Dial the next one."""
        known = self._around.coordinators.read(self._host)
        self._coordinators += [each for each in known if each not in self._coordinators]
        target = self._coordinators[0]
        self._coordinators = [*self._coordinators[1:], target]
        self._around.network.dial(self._host, target, CONTROL, self._dialled)

    def send(self, message: object) -> None:
        """Send a message; nothing where there is nobody to send it to."""
        if self._end is not None:
            self._end.send(message)

    def _dialled(self, end: End | None) -> None:
        if end is None:
            self._closed()
            return
        self._end = end
        end.on_message = self._on_message
        end.on_closed = self._closed
        self._on_connected()

    def _closed(self) -> None:
        self._end = None
        self._on_lost()
