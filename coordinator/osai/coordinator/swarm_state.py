"""What nodes say of themselves, as a coordinator holds it. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from sys import intern

from osai.coordinator.routes.hop import Hop, hop_cost_s
from osai.core.layers import LayerRange

DEFAULT_DELAY_S = 0.005  # of an edge from a node that has measured none: within a region


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanState:
    """One span on one node. `state` is "loading", "ready", "draining" or "failed".

    Attributes:
        step_time_s: of one decode step of one session, measured when the span was loaded.
        recent_step_s: mean of the last decode steps; 0 where there were none of late.
        step_in_hand_s: for how long the engine had been at its step; 0 between steps.
        num_waiting_rows: that wait for a step.
        next: layers of the model that come in place of a span that drains, where that is why it does.
    """

    model_id: str
    layers: LayerRange
    manifest_digest: bytes
    dtype: str
    state: str
    verified: bool
    num_free_kv_tokens: int
    step_time_s: float
    failure: str = ""
    recent_step_s: float = 0.0
    step_in_hand_s: float = 0.0
    num_waiting_rows: int = 0
    next: LayerRange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node's newest record. `state` is "joining", "ready" or "draining".

    Attributes:
        protocol_version: the newest that it speaks.
        operator: public key of whoever runs it, as proven (docs/security.md, O4); empty: nobody's.
        operator_flaw: why the one that it names does not count; empty where it names none, or it counts.
        delays: measured one-way seconds to peers that it may push to, by their ids, the least first.
        least_delay_s, usual_delay_s: of these; the usual one is the median. DEFAULT_DELAY_S where there are none.
        hops: its ready spans as stages of a route; none while it drains.
    """

    node_id: str
    address: str
    name: str
    software: str
    device: str
    memory_bytes: int
    state: str
    spans: tuple[SpanState, ...]
    sequence: int
    num_sessions: int
    started_at_s: float
    protocol_version: int = 1
    operator: bytes = b""
    operator_flaw: str = ""
    delays: Mapping[str, float] = field(default_factory=dict)
    least_delay_s: float = field(init=False, repr=False, compare=False)
    usual_delay_s: float = field(init=False, repr=False, compare=False)
    hops: tuple[Hop, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Routing needs these thousands of times for a record. An id, interned, is one object wherever it is told."""
        object.__setattr__(self, "node_id", intern(self.node_id))
        delays = {
            intern(node_id): delay
            for node_id, delay in sorted(self.delays.items(), key=lambda item: (item[1], item[0]))
        }
        values = list(delays.values()) or [DEFAULT_DELAY_S]
        object.__setattr__(self, "delays", delays)
        object.__setattr__(self, "least_delay_s", values[0])
        object.__setattr__(self, "usual_delay_s", values[len(values) // 2])
        ready = () if self.state == "draining" else (span for span in self.spans if span.state == "ready")
        object.__setattr__(self, "hops", tuple(self._hop(span) for span in ready))

    def _hop(self, span: SpanState) -> Hop:
        step_s = span.recent_step_s or span.step_time_s
        return Hop(
            node_id=self.node_id,
            start=span.layers.start,
            end=span.layers.end,
            cost=hop_cost_s(step_s, self.num_sessions, span.num_waiting_rows),
            delays=self.delays,
            usual=self.usual_delay_s,
            least=self.least_delay_s,
            address=self.address,
            served=(span.model_id, span.manifest_digest),
            kind=(span.dtype, span.layers.start, span.layers.end),
            step_s=step_s,
            num_waiting_rows=span.num_waiting_rows,
            num_sessions=self.num_sessions,
            num_free_kv_tokens=span.num_free_kv_tokens,
        )
