"""What a client sends and gets, as plain data. Protobuf stays in `wire`."""

from dataclasses import dataclass
from typing import Literal

from osai.core.layers import LayerRange

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a chat; `role` is one that the model's template knows: "system", "user" or "assistant"."""

    role: str
    content: str


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
    """Measured by the coordinator.

    Attributes:
        ttft_s: from the request's arrival to the first token.
        decode_tokens_per_s: of the tokens after the first; 0 where there is only one.
    """

    ttft_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The generation is complete: "stop" at end-of-sequence or a stop string, "length" at its maximum."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


GenerationEvent = Started | Chunk | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole generation.

    Attributes:
        logprobs: one entry a token; None unless asked for.
        num_cached_tokens: of the prompt, whose KV every stage had already.
    """

    model_id: str
    seed: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    pipeline: tuple[Stage, ...]
    logprobs: tuple[Token, ...] | None = None
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model that the swarm serves.

    Attributes:
        max_context: tokens that prompt and generation may have together.
        covered: whether every layer has a ready node.
        signed: whether its manifest is signed by a key that the coordinator trusts.
        replicas: ready nodes, layer by layer.
    """

    model_id: str
    num_layers: int
    max_context: int
    covered: bool
    signed: bool
    licence: str
    replicas: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedSpan:
    """One span on one node. `state` is "loading", "ready" or "failed"; `failure` says why it failed."""

    model_id: str
    span: LayerRange
    dtype: str
    state: str
    verified: bool
    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node. `state` is "joining", "ready" or "draining"."""

    node_id: str
    name: str
    software: str
    device: str
    memory_bytes: int
    state: str
    spans: tuple[HostedSpan, ...]
    num_sessions: int
    uptime_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """The swarm at one moment, as one coordinator sees it."""

    coordinator_id: str
    software: str
    http_address: str
    dht_addresses: tuple[str, ...]
    models: tuple[Model, ...]
    nodes: tuple[Node, ...]
