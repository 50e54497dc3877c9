"""A simulated coordinator's control service: the thinnest shell around production's Registrar and Swarm."""

from collections.abc import Callable
from dataclasses import dataclass

from scripts.simulation.connection import End
from scripts.simulation.hosts import Host
from scripts.simulation.network import Network
from scripts.simulation.trace import Trace

from osai.coordinator.control_service import HEARTBEAT_INTERVAL_S
from osai.coordinator.placing.registrar import Assignment, Registrar, Wish
from osai.coordinator.swarm import NodeState, Swarm
from osai.core.errors import AssignmentError, OsaiError
from osai.node.membership import Assigned

CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Joined:
    """A node introduces itself; it hosts whatever is needed."""

    record: NodeState
    memory_bytes: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A node's newest word."""

    record: NodeState


@dataclass(frozen=True, slots=True)
class Leaving:
    """A node drains."""

    reason: str


@dataclass(frozen=True, slots=True)
class Welcomed:
    """A coordinator has taken a node in."""

    heartbeat_interval_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A coordinator will not have a node."""

    error: OsaiError


class ControlServer:
    """Control streams of one coordinator, as osai.coordinator.control_service holds them.

    Args:
        host: the coordinator's process.
        network: to listen on.
        swarm, registrar: the coordinator's.
        on_assigned: told of every assignment that a node gets when it joins.
        trace: the log.
    """

    def __init__(
        self,
        host: Host,
        network: Network,
        swarm: Swarm,
        registrar: Registrar,
        on_assigned: Callable[[str, Assignment], None],
        trace: Trace,
    ) -> None:
        self._host = host
        self._swarm = swarm
        self._registrar = registrar
        self._on_assigned = on_assigned
        self._trace = trace
        self._streams: dict[str, End] = {}
        self._started: dict[End, float] = {}  # when the process at its other end was
        self._last_id = 0
        network.listen(host, CONTROL, self._accept)

    async def tell(self, node_id: str, assignment: Assignment, *, replace: bool, urgent: bool = False) -> None:
        """Give a node layers, as ControlService.tell does."""
        self._tell(node_id, assignment, replace=replace, urgent=urgent)

    def _tell(self, node_id: str, assignment: Assignment, *, replace: bool, urgent: bool = False) -> None:
        stream = self._streams.get(node_id)
        if stream is None:
            return
        self._last_id = max(self._last_id + 1, int(self._host.wall_s() * 1000))
        how = (" urgent" if urgent else " replace") if replace else ""
        self._trace.note("assign", f"{self._host.id} {node_id} {assignment.layers}{how}")
        assigned = Assigned(
            assignment_id=self._last_id,
            model_id=assignment.model.model_id,
            layers=assignment.layers,
            manifest=b"",
            source="",
            replace=replace,
            urgent=urgent,
        )
        stream.send(assigned)

    def _accept(self, end: End) -> None:
        end.on_message = lambda message: self._received(end, message)
        end.on_closed = lambda: self._closed(end)

    def _received(self, end: End, message: Joined | Heartbeat | Leaving) -> None:
        match message:
            case Joined():
                self._join(end, message)
            case Heartbeat():
                if self._streams.setdefault(end.peer, end) is end:
                    self._swarm.heard(message.record, self._host.now_s())
                else:
                    self._refuse(end, _superseded(end.peer))

    def _join(self, end: End, message: Joined) -> None:
        former, self._started[end] = self._streams.get(end.peer), message.record.started_at_s
        if former is not None and self._started[former] > self._started[end]:
            self._refuse(end, _superseded(end.peer))
            return
        self._swarm.heard(message.record, self._host.now_s())
        self._streams[end.peer] = end
        if former is not None and former is not end:
            former.send(Refusal(_superseded(end.peer)))
        try:
            wishes = [Wish(model_id="", layers=None)]
            assignments = self._registrar.joined(end.peer, wishes, message.dtype, message.memory_bytes)
        except OsaiError as e:
            self._refuse(end, e)
            return
        end.send(Welcomed(HEARTBEAT_INTERVAL_S))
        for assignment in assignments:
            self._on_assigned(end.peer, assignment)
            self._tell(end.peer, assignment, replace=False)

    def _refuse(self, end: End, error: OsaiError) -> None:
        end.send(Refusal(error))
        end.close()
        self._closed(end)

    def _closed(self, end: End) -> None:
        self._started.pop(end, None)
        if self._streams.get(end.peer) is end:
            del self._streams[end.peer]
            self._registrar.left(end.peer)
            self._swarm.lost(end.peer, self._host.now_s())


def _superseded(node_id: str) -> AssignmentError:
    return AssignmentError("another process has joined, and was started later", subject=node_id)
