"""The node's membership as a pure state machine: events and `now` in, actions out.

The shell (osai.node.process) holds the control stream, loads spans and writes to the DHT as it is told to here.
"""

from dataclasses import replace

from osai.core.errors import AssignmentError, OsaiError, ProtocolMismatchError, ResourceExhaustedError
from osai.node.membership_actions import (
    Action,
    Announce,
    Assigned,
    Load,
    MembershipConfig,
    Reconnect,
    SendHeartbeat,
    SendJoin,
    SendLeave,
    SpanStatus,
    Stop,
    Withdraw,
)
from osai.node.replacing import Replacements, Wishes

__all__ = [
    "Action",
    "Announce",
    "Assigned",
    "Load",
    "Membership",
    "MembershipConfig",
    "Reconnect",
    "SendHeartbeat",
    "SendJoin",
    "SendLeave",
    "SpanStatus",
    "Stop",
    "Withdraw",
]


class Membership:
    """State of one member.

    Args:
        num_wished: spans that were asked for at the start.
        named: models among them that were named.
        pinned: models whose layers were named too, "" where no model was: these spans are not replaced.
    """

    def __init__(
        self,
        config: MembershipConfig,
        *,
        num_wished: int,
        now_s: float,
        named: frozenset[str] = frozenset(),
        pinned: frozenset[str] = frozenset(),
    ) -> None:
        self._config = config
        self._join_until_s: float | None = now_s + config.join_deadline_s  # None once welcomed
        self._now_s = now_s
        self._num_wished = num_wished
        self._wishes = Wishes(named=named, pinned=pinned)
        self._replacements = Replacements(config, self._wishes)
        self._useless: tuple[float, OsaiError] | None = None
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
    def is_draining(self) -> bool:
        """Whether it is about to leave."""
        return self._drain_until_s is not None

    @property
    def state(self) -> str:
        """One of "joining", "ready" and "draining"."""
        if self.is_draining:
            return "draining"
        num_ready = sum(span.state == "ready" for span in self._spans.values())
        return "ready" if num_ready and num_ready >= min(self._num_wished, len(self._spans)) else "joining"

    def connected(self) -> list[Action]:
        """The control stream is up and greeted."""
        self._connected = True
        return [SendJoin()]

    def welcomed(self, heartbeat_interval_s: float, now_s: float) -> list[Action]:
        """The coordinator has taken this node in."""
        self._now_s = now_s
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

    def superseded(self, error: OsaiError) -> list[Action]:
        """Another process runs under this node's id, and was started later."""
        return [Stop(error)]

    def assigned(self, assigned: Assigned) -> list[Action]:
        """A span to host; an assignment that is out of date, or of a model hosted already, changes nothing."""
        stale = assigned.assignment_id <= self._last_assignment_id
        self._last_assignment_id = max(self._last_assignment_id, assigned.assignment_id)
        if stale or self._drain_until_s is not None:
            return []
        old = self._replacements.span_for(assigned, self._spans.values()) if assigned.replace else None
        if old is not None:
            if self._replacements.recall(old, assigned):
                self._spans[old.model_id] = replace(old, state="ready", next=None)
                return [SendHeartbeat(), Announce()]
            if not self._replacements.begin(old, assigned, self._now_s):
                return []
            follows = assigned.layers if assigned.model_id == old.model_id else None
            self._spans[old.model_id] = replace(old, state="draining", next=follows)
            return [SendHeartbeat(), Announce()]
        current = self._spans.get(assigned.model_id)
        if current and current.state != "failed":
            return []
        return self._load(assigned)

    def withdrawn(self, model_id: str) -> list[Action]:
        """A span that drained is served no more: what comes in its place is loaded."""
        self._spans.pop(model_id, None)
        by = self._replacements.end(model_id)
        if by is None or self._drain_until_s is not None:
            return [SendHeartbeat(), Announce()]
        return [*self._load(by), Announce()]

    def _load(self, assigned: Assigned) -> list[Action]:
        self._useless = None
        self._spans[assigned.model_id] = SpanStatus(model_id=assigned.model_id, layers=assigned.layers, state="loading")
        return [Load(assigned), SendHeartbeat()]

    def loaded(self, status: SpanStatus) -> list[Action]:
        """A span is ready to serve."""
        self._spans[status.model_id] = status
        return [Announce(), SendHeartbeat()]

    def failed(self, model_id: str, error: OsaiError) -> list[Action]:
        """A span could not be loaded: say so, and stop where nothing else is left to do here.

        For want of memory alone a node stays for a while: the coordinator may have fewer layers for it.
        """
        self._spans[model_id] = replace(self._spans[model_id], state="failed", failure=error.message)
        useful = any(span.state != "failed" for span in self._spans.values())
        more = len(self._spans) < self._num_wished
        told: list[Action] = [SendHeartbeat(), Announce()]
        if useful or more:
            return told
        if isinstance(error, AssignmentError | ResourceExhaustedError) and not self._wishes.is_pinned(model_id):
            self._useless = (self._now_s + self._config.useless_s, error)
            return told
        return [*told, Stop(error)]

    def drain(self, reason: str, now_s: float) -> list[Action]:
        """Take no more sessions, and go when the last one has ended."""
        if self._drain_until_s is not None:
            return []
        self._drain_until_s = now_s + self._config.drain_deadline_s
        return [SendLeave(reason), SendHeartbeat(), Announce()]  # the heartbeat tells of it at once: routes change

    def tick(self, num_sessions: int, now_s: float) -> list[Action]:
        """Time passes."""
        self._now_s = now_s
        if self._useless is not None and now_s >= self._useless[0]:
            return [Stop(self._useless[1])]
        if self._drain_until_s is not None and (num_sessions == 0 or now_s >= self._drain_until_s):
            return [Announce(), Stop()]
        actions: list[Action] = [Withdraw(model_id) for model_id in self._replacements.due(num_sessions, now_s)]
        # a change of load is told at once: coordinators route by it
        if self._connected and (now_s >= self._next_heartbeat_s or num_sessions != self._told_sessions):
            self._next_heartbeat_s = now_s + self._heartbeat_interval_s
            self._told_sessions = num_sessions
            actions.append(SendHeartbeat())
        if now_s >= self._next_announce_s:
            self._next_announce_s = now_s + self._config.announce_interval_s
            actions.append(Announce())
        return actions
