"""How much each model is asked for: tokens of the last minutes, older ones counting less and less."""

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from osai.coordinator.api import (
    Chunk,
    Embedding,
    EmbeddingRequest,
    GenerationEvent,
    GenerationRequest,
    Generations,
    Started,
    SwarmView,
)

HALF_LIFE_S = 600.0  # a model that nobody has asked for in half an hour counts an eighth
STEP = 2.0**0.5  # demand is told in such steps, so that it does not change with every token


class Demand:
    """Counts tokens, prompt and generated, by model. Pure."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, float]] = {}

    def add(self, model_id: str, num_tokens: int, now_s: float) -> None:
        """Tokens of a model were asked for, or generated."""
        self._tokens[model_id] = self._decayed(model_id, now_s) + num_tokens, now_s

    def by_model(self, now_s: float) -> dict[str, float]:
        """Recent tokens of each model that was asked for, in steps."""
        found = {model_id: self._decayed(model_id, now_s) for model_id in self._tokens}
        return {name: STEP ** round(math.log(tokens, STEP)) for name, tokens in found.items() if tokens >= 1.0}

    def _decayed(self, model_id: str, now_s: float) -> float:
        tokens, at_s = self._tokens.get(model_id, (0.0, now_s))
        return float(tokens * 0.5 ** ((now_s - at_s) / HALF_LIFE_S))


class CountedGenerations:
    """The coordinator behind its front doors, what it is asked for counted. A `Generations` itself."""

    def __init__(self, inner: Generations, demand: Demand, clock: Callable[[], float]) -> None:
        self._inner = inner
        self._demand = demand
        self._clock = clock

    def swarm(self) -> SwarmView:
        """As `Generations.swarm`."""
        return self._inner.swarm()

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """As `Generations.embed`."""
        found = await self._inner.embed(request)
        self._demand.add(found.model_id, found.num_prompt_tokens, self._clock())
        return found

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """As `Generations.generate`."""
        model_id = ""
        async with aclosing(self._inner.generate(request)) as events:
            async for event in events:
                match event:
                    case Started():
                        model_id = event.model_id
                        self._demand.add(model_id, event.num_prompt_tokens, self._clock())
                    case Chunk() if event.tokens:
                        self._demand.add(model_id, len(event.tokens), self._clock())
                yield event
