"""A coordinator that follows a script, behind the real `Generations` interface."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from osai.coordinator.api import (
    Chunk,
    Embedding,
    EmbeddingRequest,
    Finished,
    GeneratedToken,
    GenerationEvent,
    GenerationRequest,
    ModelView,
    NodeView,
    SpanView,
    StageView,
    Started,
    SwarmView,
)
from osai.core.layers import LayerRange

MODEL = "osai/demo"
WALL_CLOCK_S = 1_700_000_000.25
HANG = float("inf")  # a step that waits until the generation is closed

Step = GenerationEvent | Exception | float  # say it, raise it, or wait so many seconds
Script = Callable[[GenerationRequest], Sequence[Step]]

STAGES = tuple(
    StageView(node_id=f"{i}" * 32, address=f"10.9.8.{i}:4000", span=LayerRange(2 * i, 2 * i + 2)) for i in range(3)
)


def started(seed: int = 7) -> Started:
    return Started(
        session_id="s1", model_id=MODEL, num_prompt_tokens=4, seed=seed, pipeline=STAGES, num_cached_tokens=3
    )


def token(text: str, token_id: int = 1, logprob: float | None = None, *top: tuple[int, str, float]) -> GeneratedToken:
    return GeneratedToken(token_id=token_id, text=text, logprob=logprob, top=top)


def chunk(index: int, text: str, *tokens: GeneratedToken) -> Chunk:
    return Chunk(index=index, text=text, tokens=tokens or (token(text),))


def finished(reason: str = "length", num_tokens: int = 3) -> Finished:
    return Finished(
        reason=reason, num_prompt_tokens=4, num_generated_tokens=num_tokens, ttft_s=0.25, decode_tokens_per_s=40.0
    )


def hello_world(request: GenerationRequest) -> list[Step]:
    """Three tokens and an end."""
    return [started(request.sampling.seed), chunk(0, "Hel"), chunk(1, "lo"), chunk(2, " world"), finished()]


def example_model(model_id: str = MODEL, **fields: Any) -> ModelView:  # noqa: ANN401 - of any field
    values = {"num_layers": 6, "max_context": 2048, "signed": True, "licence": "Apache-2.0", "created_s": 1_600_000_000}
    return ModelView(model_id=model_id, **{**values, "replicas": (1, 1, 2, 2, 3, 3), **fields})


def example_node(index: int = 0, **fields: Any) -> NodeView:  # noqa: ANN401 - of any field
    span = SpanView(model_id=MODEL, span=LayerRange(0, 2), dtype="bf16", state="ready", verified=True)
    values = {"node_id": f"{index:032x}", "name": f"node {index}", "software": "osai/0.1.0", "device": "cpu"}
    more = {"memory_bytes": 8_000_000_000, "state": "ready", "spans": (span,), "num_sessions": 2, "uptime_s": 3700.0}
    return NodeView(**{**values, **more, **fields})


def example_swarm(**fields: Any) -> SwarmView:  # noqa: ANN401 - of any field
    values = {"coordinator_id": "c0ffee" * 5 + "00", "software": "osai/0.1.0", "http_address": "http://127.0.0.1:8080"}
    more = {"dht_addresses": ("/ip4/127.0.0.1/tcp/4001/p2p/12D3KooW",), "models": (example_model(),)}
    return SwarmView(**{**values, **more, "nodes": tuple(example_node(i) for i in range(3)), **fields})


@dataclass
class FakeGenerations:
    """Follows `script`, and keeps what it was asked and how each generation ended."""

    script: Script = hello_world
    view: SwarmView = field(default_factory=example_swarm)
    requests: list[GenerationRequest] = field(default_factory=list)
    embedding: Sequence[Exception | float] = ()  # what an embedding waits for, or fails with
    embedded: list[EmbeddingRequest] = field(default_factory=list)
    num_cancelled: int = 0  # closed before their end
    num_ended: int = 0  # ran to their end, or to the script's error
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # any of the two

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        self.requests.append(request)
        self.asked.set()
        try:
            for step in self.script(request):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, int | float):
                    await (asyncio.Event().wait() if step == HANG else asyncio.sleep(step))
                else:
                    yield step
        except (asyncio.CancelledError, GeneratorExit):
            await asyncio.sleep(0)  # as one that tells its nodes, and must be left the time to
            self.num_cancelled += 1
            self.num_ended -= 1
            raise
        finally:
            self.num_ended += 1
            self.closed.set()

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        self.embedded.append(request)
        self.asked.set()
        try:
            for step in self.embedding:
                if isinstance(step, Exception):
                    raise step
                await (asyncio.Event().wait() if step == HANG else asyncio.sleep(step))
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.closed.set()
        num_tokens = len(request.prompt)
        return Embedding(model_id=MODEL, num_prompt_tokens=num_tokens, vector=(0.6, -0.8, num_tokens / 2**20))

    def swarm(self) -> SwarmView:
        return self.view


def scripted(*steps: Step) -> FakeGenerations:
    """A coordinator that answers every request with these steps."""
    return FakeGenerations(script=lambda _request: steps)
