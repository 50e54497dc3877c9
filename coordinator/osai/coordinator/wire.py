"""Between the wire's messages and the coordinator's own data: protobuf stays here, at the edge."""

import math

from osai.coordinator.api import StageView
from osai.coordinator.sessions.actions import TokenEvent
from osai.coordinator.swarm import NodeState, SpanState
from osai.core.errors import PeerError, TrustError
from osai.core.layers import LayerRange
from osai.core.operators import OperatorStatement, check_operator
from osai.core.sampling import SamplingParams
from osai.proto import common_pb2, edge_pb2, record_pb2

MAX_DELAYS = 64  # in a record; nodes measure those to 16 peers
MAX_DELAY_S = 60.0  # what is longer is no worse: bounds what a record can claim

_FINISH = {common_pb2.FINISH_REASON_STOP: "stop", common_pb2.FINISH_REASON_LENGTH: "length"}


def read_node(record: record_pb2.NodeRecord, *, is_proven: bool = False) -> NodeState:
    """Read a node's record.

    Args:
        record: as it came.
        is_proven: the node that it is of has signed it, or shown its certificate: its operator may count (O4).

    Raises:
        PeerError: if it lacks an id or an address, names two spans of a model, or a time in it is no time.
        InvalidRequestError: if a layer range is empty or negative.
    """
    if not record.node_id or not record.edge_address:
        raise PeerError("a node's record must have an id and an address")
    models = [span.model_id for span in record.spans]
    if len(set(models)) < len(models):
        raise PeerError(
            f"node {record.node_id} announces two spans of one model; it may host one", subject=record.node_id
        )
    if not math.isfinite(record.started_at_s):
        raise PeerError(f"node {record.node_id} was started at {record.started_at_s} s", subject=record.node_id)
    operator, operator_flaw = _read_operator(record, is_proven=is_proven)
    return NodeState(
        node_id=record.node_id,
        address=record.edge_address,
        name=record.name,
        software=record.software,
        device=record.device,
        memory_bytes=record.memory_bytes,
        state=record.state,
        spans=tuple(_read_span(span) for span in record.spans),
        sequence=record.sequence,
        num_sessions=record.num_sessions,
        started_at_s=record.started_at_s,
        protocol_version=max(record.protocol_version, 1),
        operator=operator,
        operator_flaw=operator_flaw,
        delays=_read_delays(record),
    )


def _read_operator(record: record_pb2.NodeRecord, *, is_proven: bool) -> tuple[bytes, str]:
    """The operator that counts, and why the one that is named does not (O4)."""
    if not record.operator:
        return b"", ""
    if not is_proven:
        return b"", f"node {record.node_id} names an operator, and has not signed its record"
    statement = OperatorStatement(public_key=record.operator, signature=record.operator_signature)
    try:
        check_operator(statement, record.node_id)
    except TrustError as e:
        return b"", e.message
    return record.operator, ""


def _read_delays(record: record_pb2.NodeRecord) -> dict[str, float]:
    if len(record.delays) > MAX_DELAYS:
        raise PeerError(f"node {record.node_id} names {len(record.delays)} delays; at most {MAX_DELAYS} are taken")
    for delay in record.delays:
        if not 0 <= delay.delay_s < math.inf:
            raise PeerError(f"node {record.node_id} is said to be {delay.delay_s} s from {delay.node_id}")
    return {delay.node_id: min(delay.delay_s, MAX_DELAY_S) for delay in record.delays}


def _read_span(span: record_pb2.SpanRecord) -> SpanState:
    for time_s in (span.step_time_s, span.recent_step_s, span.step_in_hand_s):
        if not 0 <= time_s < math.inf:  # also NaN: it would win every comparison of costs
            raise PeerError(f"a step of {span.model_id} is said to take {time_s} s")
    return SpanState(
        model_id=span.model_id,
        layers=LayerRange(span.span.start, span.span.end),
        manifest_digest=span.manifest_digest,
        dtype=span.dtype,
        state=span.state,
        verified=span.verified,
        num_free_kv_tokens=span.num_free_kv_tokens,
        step_time_s=span.step_time_s,
        failure=span.failure,
        recent_step_s=span.recent_step_s,
        step_in_hand_s=span.step_in_hand_s,
        num_waiting_rows=span.num_waiting_rows,
        next=LayerRange(span.next.start, span.next.end) if span.HasField("next") else None,
    )


def read_token(token: edge_pb2.Token) -> TokenEvent:
    """Read what a tail drew."""
    sampled = token.token
    return TokenEvent(
        epoch=token.epoch,
        index=token.index,
        token_id=sampled.token_id,
        logprob=sampled.logprob if sampled.HasField("logprob") else None,
        top=tuple((other.token_id, other.logprob) for other in sampled.top),
        finish=_FINISH.get(token.finish),
    )


def write_sampling(params: SamplingParams) -> common_pb2.SamplingParams:
    """Sampling parameters for the tail."""
    return common_pb2.SamplingParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=params.seed,
        num_logprobs=params.num_logprobs,
    )


def write_stage(stage: StageView) -> common_pb2.Stage:
    """A stage of a pipeline."""
    span = common_pb2.LayerRange(start=stage.span.start, end=stage.span.end)
    return common_pb2.Stage(node_id=stage.node_id, address=stage.address, span=span)
