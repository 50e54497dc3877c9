"""The node's membership as a pure state machine: events and `now` in, actions out.

The shell (osai.node.process) holds the control stream, loads spans and writes to the DHT as it is told to here.
"""

from dataclasses import dataclass, replace

from osai.core.errors import OsaiError, ProtocolMismatchError
from osai.core.layers import LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipConfig:
    """Periods of a member.

    Attributes:
        heartbeat_interval_s: what a coordinator's welcome may change; two are missed before 5 s are over.
        announce_interval_s: a third of the record's life, so that two may be lost.
        record_ttl_s: a node that died is gone from the DHT after this long.
        min_reconnect_s: first wait after the control stream broke: a restarted coordinator is back at once.
        max_reconnect_s: longest wait; the wait doubles up to here.
        join_deadline_s: how long to look for a first coordinator; 20 s covers one that is still starting.
        drain_deadline_s: sessions that still run this long after a drain began are given up.
    """

    heartbeat_interval_s: float = 2.0
    announce_interval_s: float = 10.0
    record_ttl_s: float = 30.0
    min_reconnect_s: float = 0.5
    max_reconnect_s: float = 10.0
    join_deadline_s: float = 20.0
    drain_deadline_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """A coordinator's assignment."""

    assignment_id: int
    model_id: str
    layers: LayerRange
    manifest: bytes
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanStatus:
    """How far a span is: "loading", "ready" or "failed"."""

    model_id: str
    layers: LayerRange
    state: str
    manifest_digest: bytes = b""
    dtype: str = ""
    verified: bool = False
    step_time_s: float = 0.0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class SendJoin:
    """Introduce this node on the new control stream."""


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Send the node's record on the control stream."""


@dataclass(frozen=True, slots=True)
class SendLeave:
    """Say on the control stream that this node drains."""

    reason: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Store the node's record in the DHT."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load a span."""

    assigned: Assigned


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Dial a coordinator again, `after_s` from now."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave for good."""

    error: OsaiError | None = None


Action = SendJoin | SendHeartbeat | SendLeave | Announce | Load | Reconnect | Stop


class Membership:
    """State of one member. `num_wished` spans were asked for at the start."""

    def __init__(self, config: MembershipConfig, *, num_wished: int, now_s: float) -> None:
        self._config = config
        self._join_until_s: float | None = now_s + config.join_deadline_s  # None once welcomed
        self._num_wished = num_wished
        self._heartbeat_interval_s = config.heartbeat_interval_s
        self._spans: dict[str, SpanStatus] = {}
        self._last_assignment_id = 0
        self._connected = False
        self._reconnect_s = config.min_reconnect_s
        self._next_heartbeat_s = 0.0
        self._told_sessions = 0
        self._next_announce_s = 0.0
        self._drain_until_s: float | None = None

    @property
    def spans(self) -> tuple[SpanStatus, ...]:
        """Spans of this node, whatever their state."""
        return tuple(self._spans.values())

    @property
    def state(self) -> str:
        """One of "joining", "ready" and "draining"."""
        if self._drain_until_s is not None:
            return "draining"
        num_ready = sum(span.state == "ready" for span in self._spans.values())
        return "ready" if num_ready and num_ready >= min(self._num_wished, len(self._spans)) else "joining"

    def connected(self) -> list[Action]:
        """The control stream is up and greeted."""
        self._connected = True
        return [SendJoin()]

    def welcomed(self, heartbeat_interval_s: float, now_s: float) -> list[Action]:
        """The coordinator has taken this node in."""
        self._join_until_s = None
        self._reconnect_s = self._config.min_reconnect_s
        if heartbeat_interval_s > 0:
            self._heartbeat_interval_s = heartbeat_interval_s
        self._next_heartbeat_s = now_s + self._heartbeat_interval_s
        return [Announce()]

    def disconnected(self, error: OsaiError, now_s: float) -> list[Action]:
        """The control stream broke or could not be had; what this node serves goes on."""
        self._connected = False
        if self._drain_until_s is not None:
            return []
        if self._join_until_s is not None and (isinstance(error, ProtocolMismatchError) or now_s > self._join_until_s):
            return [Stop(error)]
        after_s, self._reconnect_s = self._reconnect_s, min(2 * self._reconnect_s, self._config.max_reconnect_s)
        return [Reconnect(after_s)]

    def refused(self, error: OsaiError) -> list[Action]:
        """A coordinator will not have this node; another may, once one has."""
        return [Stop(error)] if self._join_until_s is not None else []

    def assigned(self, assigned: Assigned) -> list[Action]:
        """A span to host; an assignment that is out of date, or of a model hosted already, changes nothing."""
        current = self._spans.get(assigned.model_id)
        stale = assigned.assignment_id <= self._last_assignment_id
        self._last_assignment_id = max(self._last_assignment_id, assigned.assignment_id)
        if stale or self._drain_until_s is not None or (current and current.state != "failed"):
            return []
        self._spans[assigned.model_id] = SpanStatus(model_id=assigned.model_id, layers=assigned.layers, state="loading")
        return [Load(assigned), SendHeartbeat()]

    def loaded(self, status: SpanStatus) -> list[Action]:
        """A span is ready to serve."""
        self._spans[status.model_id] = status
        return [Announce(), SendHeartbeat()]

    def failed(self, model_id: str, error: OsaiError) -> list[Action]:
        """A span could not be loaded: say so, and stop where nothing else is left to do here."""
        self._spans[model_id] = replace(self._spans[model_id], state="failed", failure=error.message)
        useful = any(span.state != "failed" for span in self._spans.values())
        more = len(self._spans) < self._num_wished
        told: list[Action] = [SendHeartbeat(), Announce()]
        return told if useful or more else [*told, Stop(error)]

    def drain(self, reason: str, now_s: float) -> list[Action]:
        """Take no more sessions, and go when the last one has ended."""
        if self._drain_until_s is not None:
            return []
        self._drain_until_s = now_s + self._config.drain_deadline_s
        return [SendLeave(reason), Announce()]

    def tick(self, num_sessions: int, now_s: float) -> list[Action]:
        """Time passes."""
        if self._drain_until_s is not None and (num_sessions == 0 or now_s >= self._drain_until_s):
            return [Announce(), Stop()]
        actions: list[Action] = []
        # a change of load is told at once: coordinators route by it
        if self._connected and (now_s >= self._next_heartbeat_s or num_sessions != self._told_sessions):
            self._next_heartbeat_s = now_s + self._heartbeat_interval_s
            self._told_sessions = num_sessions
            actions.append(SendHeartbeat())
        if now_s >= self._next_announce_s:
            self._next_announce_s = now_s + self._config.announce_interval_s
            actions.append(Announce())
        return actions
