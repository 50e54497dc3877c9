"""What the front doors (gRPC, HTTP, health page) ask of the coordinator, and what they get back."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from osai.coordinator.tool_calls.style import ToolStyle
from osai.core.chat_turns import ChatMessage, Tool, ToolCall
from osai.core.grammar import Grammar
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams

__all__ = [
    "ChatMessage", "Chunk", "Embedding", "EmbeddingRequest", "Finished", "GeneratedToken", "GenerationEvent",
    "GenerationRequest", "Generations", "KnownToken", "ModelView", "NodeView", "Rerouted", "Resumption",
    "SpanView", "StageView", "Started", "SwarmView", "Tool", "ToolCall", "Waiting",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """One stage of a pipeline."""

    node_id: str
    address: str
    span: LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownToken:
    """A generated token that a client has already."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """A session to go on with, that another coordinator ran, or this one before it was restarted.

    Attributes:
        session: its number on every edge.
        attempt: 1 for the first resumption of the session, and rises: the later one overtakes the earlier.
        tokens: all that the client has, from index 0 on.
        pipeline: the last one that the client knows; its stages may still hold the session's KV.
    """

    session: int
    attempt: int
    tokens: tuple[KnownToken, ...]
    pipeline: tuple[StageView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One generation, its bounds not yet checked against the model.

    Attributes:
        model_id: may be empty where exactly one model is served.
        prompt: text, token ids, or a chat for the model's template.
        max_tokens: None for as many as the context holds.
        stop: strings that end the generation; the text ends before the first of them.
        stop_token_ids: tokens that end it, besides the model's own end-of-sequence.
        ignore_eos: generate on past the model's end-of-sequence.
        trusted_operators: public keys of those whose nodes alone may serve it; empty: any may.
        tools: for a chat's template.
        grammar: what the generated text must be.
        resume: go on with this session; everything else, the seed included, is as it was at its beginning.
    """

    model_id: str
    prompt: str | tuple[int, ...] | tuple[ChatMessage, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    trusted_operators: frozenset[bytes] = frozenset()
    tools: tuple[Tool, ...] = ()
    grammar: Grammar | None = None
    resume: Resumption | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """One prompt to be made into a vector.

    Attributes:
        model_id: may be empty where exactly one model is served.
        pooling: "mean" over the prompt's tokens, or its "last" one.
        trusted_operators: as of GenerationRequest.
    """

    model_id: str
    prompt: str | tuple[int, ...]
    pooling: Literal["mean", "last"] = "mean"
    trusted_operators: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A prompt's vector: [hidden_size], of length 1."""

    model_id: str
    num_prompt_tokens: int
    vector: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The session is open on every stage; of one that was resumed, chunks follow from the first new token on.

    Attributes:
        num_cached_tokens: of the prompt, whose KV all stages had already.
    """

    session_id: str
    model_id: str
    num_prompt_tokens: int
    seed: int
    pipeline: tuple[StageView, ...]
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedToken:
    """One token, with its logprobs (natural logarithms) where they were asked for."""

    token_id: int
    text: str  # of this token alone, for logprobs; "\ufffd" where it is part of a character
    logprob: float | None = None
    top: tuple[tuple[int, str, float], ...] = ()  # (token id, its text, logprob), likeliest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tokens as they come; `text` may lag behind them (unfinished UTF-8, a possible stop string)."""

    index: int
    tokens: tuple[GeneratedToken, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerouted:
    """The session goes on over another pipeline, indices where they were; `pause_s` from the loss until then."""

    pipeline: tuple[StageView, ...]
    reason: str
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Part of the model has no node just now; the session waits for one, for `remaining_s` at most."""

    reason: str
    remaining_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The generation is complete. `reason` is "stop" or "length"; `stop` the stop string that came, if one did."""

    reason: str
    num_prompt_tokens: int
    num_generated_tokens: int
    ttft_s: float
    decode_tokens_per_s: float
    num_recoveries: int = 0
    stop: str = ""


GenerationEvent = Started | Chunk | Rerouted | Waiting | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One model that this coordinator serves.

    Attributes:
        replicas: ready nodes, layer by layer; a zero is a gap.
        signed: whether its manifest is signed by a key that this coordinator trusts.
        created_s: when the manifest was made, seconds since 1970.
        num_queued: requests that wait for KV to come free.
        routable: whether spans of one precision join from the first layer to the last.
        missing: what the nodes present lack to hold it all; empty where they can.
        tools: how it calls tools; None if its chat template knows none.
    """

    model_id: str
    num_layers: int
    max_context: int
    signed: bool
    licence: str
    replicas: tuple[int, ...]
    created_s: int = 0
    num_queued: int = 0
    routable: bool = True
    missing: str = ""
    tools: ToolStyle | None = None

    @property
    def covered(self) -> bool:
        """Whether a session can be routed: every layer has a ready node, and their spans join."""
        return self.routable and all(self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanView:
    """One span on one node. `state` is "loading", "ready" or "failed"."""

    model_id: str
    span: LayerRange
    dtype: str
    state: str
    verified: bool
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """One node as the swarm sees it. `state` is "joining", "ready" or "draining".

    Attributes:
        operator: public key of whoever runs it, in hex; empty: nobody's.
    """

    node_id: str
    name: str
    software: str
    device: str
    memory_bytes: int
    state: str
    spans: tuple[SpanView, ...]
    num_sessions: int
    uptime_s: float
    operator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmView:
    """The swarm at one moment. `private`: it lets in whom its operator has invited, and nobody else."""

    coordinator_id: str
    software: str
    http_address: str
    dht_addresses: tuple[str, ...]
    models: tuple[ModelView, ...]
    nodes: tuple[NodeView, ...]
    coordinators: tuple[str, ...] = ()  # HOST:PORT of every one that is known, this one's first
    private: bool = False


class Generations(Protocol):
    """The coordinator as its front doors see it."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Run one generation: one Started, any number of Chunks, one Finished; Rerouted and Waiting in between.

        Closing it early cancels.

        Raises:
            OsaiError: the typed reason why it can't start or go on; nothing follows it.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """The vector of one prompt.

        Raises:
            OsaiError: the typed reason why there is none.
        """
        ...

    def swarm(self) -> SwarmView:
        """The swarm as it is now, models and nodes."""
        ...
