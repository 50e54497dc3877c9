"""Between the wire's messages and the coordinator's own data: protobuf stays here, at the edge.

The B numbers are clauses of docs/security.md.
"""

import math

from osai.coordinator.api import StageView
from osai.coordinator.sessions.actions import TokenEvent
from osai.coordinator.swarm import NodeState, SpanState
from osai.core.errors import PeerError, TrustError
from osai.core.layers import LayerRange
from osai.core.operators import OperatorStatement, check_operator
from osai.core.sampling import MAX_LOGPROBS, SamplingParams
from osai.proto import common_pb2, edge_pb2, record_pb2

MAX_DELAYS = 64  # in a record; nodes measure those to 16 peers
MAX_DELAY_S = 60.0  # what is longer is no worse: bounds what a record can claim
MAX_SPANS = 256  # in a record; a node hosts one of each of its models
MAX_LAYERS = 10_000  # as manifests have it
MAX_NAME_CHARS = 255  # of ids, addresses and words that something is known by: longer ones are refused
MAX_TEXT_CHARS = 1000  # of what is for people alone: cut
MAX_TIME_S = 2.0**53  # on a node's clock
MAX_TOKEN_ID = 2**31 - 1  # token ids travel as int32

_FINISH = {common_pb2.FINISH_REASON_STOP: "stop", common_pb2.FINISH_REASON_LENGTH: "length"}


def read_node(record: record_pb2.NodeRecord, *, proven_at_s: float | None = None) -> NodeState:
    """Read a node's record.

    Args:
        record: as it came.
        proven_at_s: seconds since 1970 at which the node that it is of has signed it, or shown its certificate: its
            operator may count (O4); None where it has not.

    Raises:
        PeerError: if it lacks an id or an address, names two spans of a model, a time in it is no time, or there is
            too much of anything (B2).
        InvalidRequestError: if a layer range is empty or negative.
    """
    if not record.node_id or not record.edge_address:
        raise PeerError("a node's record must have an id and an address")
    _check_names(record.node_id, record.edge_address, record.state, *(delay.node_id for delay in record.delays))
    if len(record.spans) > MAX_SPANS:
        raise PeerError(f"node {record.node_id} names {len(record.spans)} spans; at most {MAX_SPANS} are taken")
    models = [span.model_id for span in record.spans]
    if len(set(models)) < len(models):
        raise PeerError(
            f"node {record.node_id} announces two spans of one model; it may host one", subject=record.node_id
        )
    if not -MAX_TIME_S < record.started_at_s < MAX_TIME_S:  # also NaN
        raise PeerError(f"node {record.node_id} was started at {record.started_at_s} s", subject=record.node_id)
    operator, operator_flaw = _read_operator(record, proven_at_s)
    return NodeState(
        node_id=record.node_id,
        address=record.edge_address,
        name=record.name[:MAX_TEXT_CHARS],
        software=record.software[:MAX_TEXT_CHARS],
        device=record.device[:MAX_TEXT_CHARS],
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


def _read_operator(record: record_pb2.NodeRecord, proven_at_s: float | None) -> tuple[bytes, str]:
    """The operator that counts, and why the one that is named does not (O4)."""
    if not record.operator:
        return b"", ""
    if proven_at_s is None:
        return b"", f"node {record.node_id} names an operator, and has not signed its record"
    statement = OperatorStatement(
        public_key=record.operator, not_after_s=record.operator_not_after_s, signature=record.operator_signature
    )
    try:
        check_operator(statement, record.node_id, proven_at_s)
    except TrustError as e:
        return b"", e.message
    return record.operator, ""


def _check_names(*names: str) -> None:
    """Before anything is copied, or told of."""
    if (longest := max(map(len, names), default=0)) > MAX_NAME_CHARS:
        raise PeerError(f"a name of {longest} characters is over the limit of {MAX_NAME_CHARS}")


def _read_layers(layers: common_pb2.LayerRange) -> LayerRange:
    if layers.end > MAX_LAYERS:
        raise PeerError(f"layer {layers.end - 1} is announced; no model has more than {MAX_LAYERS}")
    return LayerRange(layers.start, layers.end)


def _read_delays(record: record_pb2.NodeRecord) -> dict[str, float]:
    if len(record.delays) > MAX_DELAYS:
        raise PeerError(f"node {record.node_id} names {len(record.delays)} delays; at most {MAX_DELAYS} are taken")
    for delay in record.delays:
        if not 0 <= delay.delay_s < math.inf:
            raise PeerError(f"node {record.node_id} is said to be {delay.delay_s} s from {delay.node_id}")
    return {delay.node_id: min(delay.delay_s, MAX_DELAY_S) for delay in record.delays}


def _read_span(span: record_pb2.SpanRecord) -> SpanState:
    _check_names(span.model_id, span.dtype, span.state)
    if len(span.manifest_digest) > MAX_NAME_CHARS:
        raise PeerError(f"a manifest's digest of {len(span.manifest_digest)} bytes is none")
    for time_s in (span.step_time_s, span.recent_step_s, span.step_in_hand_s):
        if not 0 <= time_s < math.inf:  # also NaN: it would win every comparison of costs
            raise PeerError(f"a step of {span.model_id} is said to take {time_s} s")
    return SpanState(
        model_id=span.model_id,
        layers=_read_layers(span.span),
        manifest_digest=span.manifest_digest,
        dtype=span.dtype,
        state=span.state,
        verified=span.verified,
        num_free_kv_tokens=span.num_free_kv_tokens,
        step_time_s=span.step_time_s,
        failure=span.failure[:MAX_TEXT_CHARS],
        recent_step_s=span.recent_step_s,
        step_in_hand_s=span.step_in_hand_s,
        num_waiting_rows=span.num_waiting_rows,
        next=_read_layers(span.next) if span.HasField("next") else None,
    )


def read_token(token: edge_pb2.Token) -> TokenEvent:
    """Read what a tail drew.

    Raises:
        PeerError: if an id in it is no token's, a logprob no number, or it has more of them than anybody asks for.
    """
    sampled = token.token
    if len(sampled.top) > MAX_LOGPROBS:
        raise PeerError(f"a token came with {len(sampled.top)} alternatives; at most {MAX_LOGPROBS} are asked for")
    if max(sampled.token_id, *(other.token_id for other in sampled.top), 0) > MAX_TOKEN_ID:
        raise PeerError(f"a token id over {MAX_TOKEN_ID} came: no model has so many")
    if any(math.isnan(value) for value in (sampled.logprob, *(other.logprob for other in sampled.top))):
        raise PeerError(f"a logprob of token {sampled.token_id} is no number")
    return TokenEvent(
        epoch=token.epoch,
        index=token.index,
        token_id=sampled.token_id,
        logprob=sampled.logprob if sampled.HasField("logprob") else None,
        top=tuple((other.token_id, other.logprob) for other in sampled.top),
        finish=_FINISH.get(token.finish),
        embedding=token.embedding,
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
        logit_bias=dict(params.logit_bias),
    )


POOLINGS: dict[str | None, common_pb2.Pooling.ValueType] = {
    None: common_pb2.POOLING_UNSPECIFIED,
    "mean": common_pb2.POOLING_MEAN,
    "last": common_pb2.POOLING_LAST,
}


def write_stage(stage: StageView) -> common_pb2.Stage:
    """A stage of a pipeline."""
    span = common_pb2.LayerRange(start=stage.span.start, end=stage.span.end)
    return common_pb2.Stage(node_id=stage.node_id, address=stage.address, span=span)
