"""What a member is told, what it says of its spans, and what follows from it. Pure data."""

from dataclasses import dataclass

from osai.core.errors import OsaiError
from osai.core.layers import LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipConfig:
    """Periods of a member.

    Attributes:
        heartbeat_interval_s: what a coordinator's welcome may change; two are missed before 5 s are over.
        announce_interval_s: coordinators without a control stream to this node forget it after three of these.
        record_ttl_s: a node that died is gone from the DHT after this long.
        min_reconnect_s: first wait after the control stream broke: a restarted coordinator is back at once.
        max_reconnect_s: longest wait; the wait doubles up to here. One that was restarted is noticed this late, and
            sessions wait for it.
        join_deadline_s: how long to look for a first coordinator; 20 s covers one that is still starting.
        drain_deadline_s: sessions that still run this long after a drain began are given up.
        drain_notice_s: a span that is to be replaced serves on for so long, whoever uses it: sessions may be on their
            way to it until every coordinator has heard, and one that hears meanwhile, through the DHT, that another
            holder of these layers leaves can still call the move back.
        replace_rest_s: for which a span that was told to move is not told so again: two coordinators may both think of
            it before they have heard of each other's move.
        useless_s: for which a node that hosts nothing, since no span fitted, waits to be given another one.
    """

    heartbeat_interval_s: float = 2.0
    announce_interval_s: float = 5.0
    record_ttl_s: float = 30.0
    min_reconnect_s: float = 0.5
    max_reconnect_s: float = 2.0
    join_deadline_s: float = 20.0
    drain_deadline_s: float = 30.0
    drain_notice_s: float = 5.0
    replace_rest_s: float = 20.0
    useless_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """A coordinator's assignment.

    Attributes:
        replace: in place of the span of that model, or where there is none, of the one that any model could have had.
        urgent: the model has no pipeline until this is done.
    """

    assignment_id: int
    model_id: str
    layers: LayerRange
    manifest: bytes
    source: str
    replace: bool = False
    urgent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanStatus:
    """How far a span is: "loading", "ready", "draining" or "failed".

    Attributes:
        next: layers of the model that come in place of one that drains.
    """

    model_id: str
    layers: LayerRange
    state: str
    manifest_digest: bytes = b""
    dtype: str = ""
    verified: bool = False
    step_time_s: float = 0.0
    failure: str = ""
    next: LayerRange | None = None


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
class Withdraw:
    """Serve the span of a model no more, and free its memory; then say so by `Membership.withdrawn`."""

    model_id: str


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Dial a coordinator again, `after_s` from now."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave for good."""

    error: OsaiError | None = None


Action = SendJoin | SendHeartbeat | SendLeave | Announce | Load | Withdraw | Reconnect | Stop
