"""Between protobuf and plain data. Whatever a coordinator sends that breaks the contract is a BadFrameError."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from osai.client import events
from osai.core.errors import BadFrameError, InvalidRequestError
from osai.core.layers import LayerRange
from osai.proto import client_pb2, common_pb2

MAX_LENGTH_ERROR = 0.01  # of a vector's length; float32's own is far below

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


def _pipeline_of(wire: Iterable[common_pb2.Stage]) -> tuple[events.Stage, ...]:
    return tuple(events.Stage(node_id=stage.node_id, address=stage.address, span=span_of(stage.span)) for stage in wire)


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
        pipeline=_pipeline_of(wire.pipeline),
        num_cached_tokens=wire.num_cached_tokens,
    )


def rerouted_of(wire: client_pb2.Rerouted) -> events.Rerouted:
    """Another pipeline."""
    pause_s = _seconds(wire.pause_s)
    return events.Rerouted(pipeline=_pipeline_of(wire.pipeline), reason=wire.reason, pause_s=pause_s)


def waiting_of(wire: client_pb2.Waiting) -> events.Waiting:
    """A wait for nodes."""
    return events.Waiting(reason=wire.reason, remaining_s=_seconds(wire.remaining_s))


def _seconds(value: float) -> float:
    if not 0 <= value < math.inf:  # also NaN
        raise BadFrameError(f"the coordinator sent {value} for a number of seconds")
    return value


def chunk_of(wire: client_pb2.Chunk) -> events.Chunk:
    """Tokens and text."""
    return events.Chunk(index=wire.index, tokens=tuple(_token_of(token) for token in wire.tokens), text=wire.text)


def _token_of(wire: common_pb2.SampledToken) -> events.Token:
    return events.Token(
        token_id=wire.token_id,
        logprob=wire.logprob if wire.HasField("logprob") else None,
        top=tuple(events.TokenLogprob(token_id=top.token_id, logprob=top.logprob) for top in wire.top),
    )


def tokens_to_proto(tokens: Sequence[events.Token]) -> list[common_pb2.SampledToken]:
    """Tokens as they came."""
    return [
        common_pb2.SampledToken(
            token_id=token.token_id,
            logprob=token.logprob,
            top=[common_pb2.TokenLogprob(token_id=top.token_id, logprob=top.logprob) for top in token.top],
        )
        for token in tokens
    ]


def stages_to_proto(pipeline: Sequence[events.Stage]) -> list[common_pb2.Stage]:
    """A pipeline as it came."""
    return [
        common_pb2.Stage(
            node_id=stage.node_id,
            address=stage.address,
            span=common_pb2.LayerRange(start=stage.span.start, end=stage.span.end),
        )
        for stage in pipeline
    ]


def embedding_of(wire: client_pb2.EmbedResponse) -> events.Embedding:
    """A prompt's vector."""
    length = math.sqrt(math.fsum(value * value for value in wire.embedding))
    if not abs(length - 1) <= MAX_LENGTH_ERROR:  # also NaN, and a vector of nothing
        raise BadFrameError(f"the coordinator sent a vector of length {length}; it must be 1")
    return events.Embedding(
        model_id=wire.model_id, num_prompt_tokens=wire.num_prompt_tokens, vector=tuple(wire.embedding)
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
        num_recoveries=wire.num_recoveries,
    )
