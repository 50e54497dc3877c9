"""What the coordinator sends, from protobuf to plain data. Whatever breaks the contract is a BadFrameError."""

from typing import Literal

from osai.client import events
from osai.core.errors import BadFrameError, InvalidRequestError
from osai.core.layers import LayerRange
from osai.proto import client_pb2, common_pb2

_REASONS: dict[int, Literal["stop", "length"]] = {
    common_pb2.FINISH_REASON_STOP: "stop",
    common_pb2.FINISH_REASON_LENGTH: "length",
}


def span_of(wire: common_pb2.LayerRange) -> LayerRange:
    """A layer range; an empty one is the peer's fault, not the caller's."""
    try:
        return LayerRange(wire.start, wire.end)
    except InvalidRequestError as e:
        raise BadFrameError(f"the coordinator sent a bad span: {e}") from e


def started_of(wire: client_pb2.Started) -> events.Started:
    """The beginning of a generation."""
    if wire.num_cached_tokens > wire.num_prompt_tokens:
        raise BadFrameError(
            f"the coordinator says that {wire.num_cached_tokens} of {wire.num_prompt_tokens} prompt tokens were cached"
        )
    return events.Started(
        session_id=wire.session_id,
        model_id=wire.model_id,
        num_prompt_tokens=wire.num_prompt_tokens,
        seed=wire.seed,
        pipeline=tuple(
            events.Stage(node_id=stage.node_id, address=stage.address, span=span_of(stage.span))
            for stage in wire.pipeline
        ),
        num_cached_tokens=wire.num_cached_tokens,
    )


def chunk_of(wire: client_pb2.Chunk) -> events.Chunk:
    """Tokens and text."""
    return events.Chunk(index=wire.index, tokens=tuple(_token_of(token) for token in wire.tokens), text=wire.text)


def _token_of(wire: common_pb2.SampledToken) -> events.Token:
    return events.Token(
        token_id=wire.token_id,
        logprob=wire.logprob if wire.HasField("logprob") else None,
        top=tuple(events.TokenLogprob(token_id=top.token_id, logprob=top.logprob) for top in wire.top),
    )


def finished_of(wire: client_pb2.Finished) -> events.Finished:
    """The end of a complete generation."""
    reason = _REASONS.get(wire.reason)
    if reason is None:
        raise BadFrameError(f"the coordinator sent finish reason {wire.reason}, which this release does not know")
    return events.Finished(
        finish_reason=reason,
        usage=events.Usage(num_prompt_tokens=wire.num_prompt_tokens, num_generated_tokens=wire.num_generated_tokens),
        timings=events.Timings(ttft_s=wire.ttft_s, decode_tokens_per_s=wire.decode_tokens_per_s),
    )


def model_of(wire: client_pb2.ModelInfo) -> events.Model:
    """One model."""
    return events.Model(
        model_id=wire.model_id,
        num_layers=wire.num_layers,
        max_context=wire.max_context,
        covered=wire.covered,
        signed=wire.signed,
        licence=wire.licence,
        replicas=tuple(wire.replicas),
    )


def _node_of(wire: client_pb2.NodeStatus) -> events.Node:
    return events.Node(
        node_id=wire.node_id,
        name=wire.name,
        software=wire.software,
        device=wire.device,
        memory_bytes=wire.memory_bytes,
        state=wire.state,
        spans=tuple(
            events.HostedSpan(
                model_id=span.model_id,
                span=span_of(span.span),
                dtype=span.dtype,
                state=span.state,
                verified=span.verified,
                failure=span.failure,
            )
            for span in wire.spans
        ),
        num_sessions=wire.num_sessions,
        uptime_s=wire.uptime_s,
    )


def swarm_of(wire: client_pb2.GetSwarmResponse) -> events.Swarm:
    """The whole swarm."""
    return events.Swarm(
        coordinator_id=wire.coordinator_id,
        software=wire.software,
        http_address=wire.http_address,
        dht_addresses=tuple(wire.dht_addresses),
        models=tuple(model_of(model) for model in wire.models),
        nodes=tuple(_node_of(node) for node in wire.nodes),
    )
