"""What a client sends and gets, as plain data. Protobuf stays in `wire`."""

from dataclasses import dataclass
from typing import Literal

from osai.core.layers import LayerRange

FinishReason = Literal["stop", "length"]
EndReason = FinishReason | Literal["error"]  # of what was generated before an error ended it


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A prompt's vector: [hidden_size], of length 1."""

    model_id: str
    num_prompt_tokens: int
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One node of a pipeline and the layers that it serves."""

    node_id: str
    address: str
    span: LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token that might have come; `logprob` is a natural logarithm."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated token.

    Attributes:
        logprob: natural logarithm of its probability before temperature; None unless asked for.
        top: the likeliest tokens at this place, likeliest first; empty unless asked for.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The session is open on every stage.

    Attributes:
        seed: the one in use, chosen by the coordinator if none was given.
        num_cached_tokens: of the prompt, whose KV every stage had already.
    """

    session_id: str
    model_id: str
    num_prompt_tokens: int
    seed: int
    pipeline: tuple[Stage, ...]
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tokens as they come.

    Attributes:
        index: of the first token, counted from 0 over the generation.
        text: may lag behind the tokens (unfinished UTF-8, a possible stop string).
    """

    index: int
    tokens: tuple[Token, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one generation."""

    num_prompt_tokens: int
    num_generated_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Measured by the coordinator; by the client where more than one coordinator ran it, or it broke off.

    Attributes:
        ttft_s: from the request's arrival to the first token.
        decode_tokens_per_s: of the tokens after the first; 0 where there is only one.
    """

    ttft_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerouted:
    """The generation goes on over another pipeline, or by another coordinator; tokens go on where they were.

    Attributes:
        reason: for people.
        pause_s: from the loss until it goes on.
    """

    pipeline: tuple[Stage, ...]
    reason: str
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Part of the model has no node just now, or no coordinator can be reached; the generation waits for one.

    It may come at any time, before Started too.

    Attributes:
        reason: for people.
        remaining_s: until it is given up.
    """

    reason: str
    remaining_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The generation is complete: "stop" at end-of-sequence or a stop string, "length" at its maximum.

    Attributes:
        num_recoveries: times that it went on over another pipeline or by another coordinator.
    """

    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    num_recoveries: int = 0


GenerationEvent = Started | Chunk | Rerouted | Waiting | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole generation, or what there was of it when an error ended it.

    Attributes:
        finish_reason: "error" where it is not whole.
        pipeline: the last one that served it.
        logprobs: one entry a token; None unless asked for.
        num_cached_tokens: of the prompt, whose KV every stage had already.
        num_recoveries: times that it went on over another pipeline or by another coordinator.
    """

    model_id: str
    seed: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: EndReason
    usage: Usage
    timings: Timings
    pipeline: tuple[Stage, ...]
    logprobs: tuple[Token, ...] | None = None
    num_cached_tokens: int = 0
    num_recoveries: int = 0
