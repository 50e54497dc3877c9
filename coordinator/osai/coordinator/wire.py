"""Between the wire's messages and the coordinator's own data: protobuf stays here, at the edge."""

import math
import struct
from collections.abc import Sequence

from osai.coordinator.api import StageView
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.session import TokenEvent
from osai.coordinator.swarm import NodeState, SpanState
from osai.core.errors import PeerError
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.proto import common_pb2, edge_pb2, record_pb2

_FINISH = {common_pb2.FINISH_REASON_STOP: "stop", common_pb2.FINISH_REASON_LENGTH: "length"}


def read_node(record: record_pb2.NodeRecord) -> NodeState:
    """Read a node's record.

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
    )


def _read_span(span: record_pb2.SpanRecord) -> SpanState:
    if not 0 <= span.step_time_s < math.inf:  # also NaN: it would win every comparison of costs
        raise PeerError(f"a step of {span.model_id} is said to take {span.step_time_s} s")
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


def write_opens(
    session: int, epoch: int, model_id: str, digest: bytes, pipeline: Sequence[StageView], plan: GenerationPlan
) -> list[edge_pb2.LinkMessage]:
    """One OpenSession a stage, in order; the tail's successor is the head."""
    messages = []
    for i, stage in enumerate(pipeline):
        successor = pipeline[(i + 1) % len(pipeline)]
        opened = edge_pb2.OpenSession(
            session=session,
            epoch=epoch,
            model_id=model_id,
            span=common_pb2.LayerRange(start=stage.span.start, end=stage.span.end),
            successor=write_stage(successor),
            num_prompt_tokens=len(plan.prompt),
            max_total_tokens=plan.max_total_tokens,
            sampling=write_sampling(plan.sampling),
            manifest_digest=digest,
            block_hashes=plan.block_hashes,
            num_stages=len(pipeline),
        )
        if i == len(pipeline) - 1:
            opened.stop_token_ids.extend(plan.stop_token_ids)
            if plan.sampling.needs_history:
                opened.prompt_token_ids.extend(plan.prompt)
        messages.append(edge_pb2.LinkMessage(open=opened))
    return messages


def write_prompt(session: int, epoch: int, prompt: Sequence[int], position: int) -> edge_pb2.LinkMessage:
    """The prompt's token ids from `position` on, for the head."""
    count = len(prompt) - position
    frame = edge_pb2.Frame(session=session, epoch=epoch, position=position, count=count)
    data = struct.pack(f"<{count}i", *prompt[position:])
    batch = edge_pb2.FrameBatch(frames=[frame], dtype=common_pb2.DTYPE_INT32, shape=[count], data=data)
    return edge_pb2.LinkMessage(frames=batch)


def write_close(session: int, block_hashes: Sequence[bytes] = ()) -> edge_pb2.LinkMessage:
    """The end of a session, for every stage; `block_hashes` name the KV that may serve later sessions."""
    return edge_pb2.LinkMessage(close=edge_pb2.CloseSession(session=session, block_hashes=block_hashes))
