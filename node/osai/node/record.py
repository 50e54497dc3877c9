"""The node's record, as the DHT and the heartbeat carry it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from osai.core.operators import OperatorStatement
from osai.core.protocol import PROTOCOL_VERSION, software
from osai.node.engine.step_load import StepLoad
from osai.node.membership import SpanStatus
from osai.proto import common_pb2, record_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What does not change while the node runs.

    Attributes:
        is_private: it is a member of a private swarm.
        operator: whose it is; None where it does not say.
    """

    node_id: str
    edge_address: str
    name: str
    device: str
    memory_bytes: int
    started_at_s: float
    is_private: bool = False
    operator: OperatorStatement | None = None


def write_span(status: SpanStatus, num_free_kv_tokens: int, load: StepLoad | None = None) -> record_pb2.SpanRecord:
    """One span; `load` of one that serves."""
    follows = status.next
    return record_pb2.SpanRecord(
        model_id=status.model_id,
        manifest_digest=status.manifest_digest,
        span=common_pb2.LayerRange(start=status.layers.start, end=status.layers.end),
        dtype=status.dtype,
        state=status.state,
        verified=status.verified,
        num_free_kv_tokens=num_free_kv_tokens,
        step_time_s=status.step_time_s,
        failure=status.failure,
        recent_step_s=load.recent_step_s if load else 0.0,
        step_in_hand_s=load.step_in_hand_s if load else 0.0,
        num_waiting_rows=load.num_waiting_rows if load else 0,
        next=common_pb2.LayerRange(start=follows.start, end=follows.end) if follows else None,
    )


def write_record(
    facts: NodeFacts,
    state: str,
    spans: Iterable[record_pb2.SpanRecord],
    *,
    num_sessions: int,
    sequence: int,
    delays: Mapping[str, float] | None = None,
) -> record_pb2.NodeRecord:
    """The node as it is now; `sequence` must rise from record to record, across restarts too."""
    return record_pb2.NodeRecord(
        node_id=facts.node_id,
        edge_address=facts.edge_address,
        name=facts.name,
        software=software(),
        protocol_version=PROTOCOL_VERSION,
        device=facts.device,
        memory_bytes=facts.memory_bytes,
        state=state,
        spans=spans,
        sequence=sequence,
        num_sessions=num_sessions,
        started_at_s=facts.started_at_s,
        delays=[record_pb2.PeerDelay(node_id=key, delay_s=delay_s) for key, delay_s in (delays or {}).items()],
        operator=facts.operator.public_key if facts.operator else b"",
        operator_signature=facts.operator.signature if facts.operator else b"",
        operator_not_after_s=facts.operator.not_after_s if facts.operator else 0,
    )
