"""Reads what a client says of a session that it wants to go on with. Nothing of it is believed unchecked."""

import math
import re

from osai.coordinator.api import KnownToken, Resumption, StageView
from osai.core.errors import ContextExceededError, InvalidRequestError
from osai.core.layers import LayerRange
from osai.core.sampling import MAX_LOGPROBS
from osai.proto import client_pb2, common_pb2

MAX_ATTEMPT = 0xFFFE  # an attempt is the upper half of a 32-bit epoch, which still has to rise after the last one
MAX_STAGES = 1024  # more layers than any model has
MAX_NAME_CHARS = 256  # of a node's id or address

_SESSION_ID = re.compile(r"[0-9a-f]{16}")  # 64 bits, as Started writes them


def read_resume(message: client_pb2.Resume, most_tokens: int | None) -> Resumption:
    """Read a Resume.

    The pipeline's ids and addresses are the client's word: hints of who may hold KV, for comparison with nodes that the
    swarm knows; nothing may be dialled by them.

    Args:
        message: as it came.
        most_tokens: generated tokens that the session may have at most; None where it is not known here.

    Raises:
        InvalidRequestError: if a field is out of its bounds.
        ContextExceededError: if it has more than `most_tokens`.
    """
    if not _SESSION_ID.fullmatch(message.session_id):
        raise InvalidRequestError("the session to resume must be named as Started did, by 16 hexadecimal digits")
    if not 1 <= message.attempt <= MAX_ATTEMPT:
        raise InvalidRequestError(f"attempt is {message.attempt}; it must lie between 1 and {MAX_ATTEMPT}")
    if most_tokens is not None and len(message.tokens) > most_tokens:
        raise ContextExceededError(
            f"{len(message.tokens)} tokens are known of a generation that may have {most_tokens}: begin it anew"
        )
    return Resumption(
        session=int(message.session_id, 16),
        attempt=message.attempt,
        tokens=tuple(_read_token(token) for token in message.tokens),
        pipeline=_read_pipeline(message),
    )


def _read_token(token: common_pb2.SampledToken) -> KnownToken:
    logprob = token.logprob if token.HasField("logprob") else None
    if len(token.top) > MAX_LOGPROBS or any(math.isnan(value) for value in (logprob or 0.0, *_logprobs(token))):
        raise InvalidRequestError(f"a known token has more than {MAX_LOGPROBS} alternatives, or a logprob that is none")
    return KnownToken(
        token_id=token.token_id,
        logprob=logprob,
        top=tuple((other.token_id, other.logprob) for other in token.top),
    )


def _logprobs(token: common_pb2.SampledToken) -> list[float]:
    return [other.logprob for other in token.top]


def _read_pipeline(message: client_pb2.Resume) -> tuple[StageView, ...]:
    """The stages, whose spans must follow one another from layer 0 on; none where the client knows of none."""
    if len(message.pipeline) > MAX_STAGES:
        raise InvalidRequestError(f"the session's pipeline has {len(message.pipeline)} stages, more than {MAX_STAGES}")
    stages: list[StageView] = []
    for stage in message.pipeline:
        if not all(0 < len(name) <= MAX_NAME_CHARS for name in (stage.node_id, stage.address)):
            raise InvalidRequestError(f"a stage needs a node id and an address of 1 to {MAX_NAME_CHARS} characters")
        span = LayerRange(stage.span.start, stage.span.end)
        due = stages[-1].span.end if stages else 0
        if span.start != due:
            raise InvalidRequestError(f"a stage of layers {span} stands where the one from layer {due} on is due")
        stages.append(StageView(node_id=stage.node_id, address=stage.address, span=span))
    return tuple(stages)
