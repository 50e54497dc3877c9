"""Generations, recorded: behind every front door, so that gRPC and HTTP both count."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from osai.coordinator.api import (
    Chunk,
    Embedding,
    EmbeddingRequest,
    GenerationEvent,
    GenerationRequest,
    Generations,
    Rerouted,
    StageView,
    Started,
    SwarmView,
)
from osai.coordinator.history.recorder import Recorder


class RecordedGenerations:
    """The coordinator behind its front doors, what it serves recorded. A `Generations` itself."""

    def __init__(self, inner: Generations, recorder: Recorder, clock: Callable[[], float]) -> None:
        self._inner = inner
        self._recorder = recorder
        self._clock = clock

    def swarm(self) -> SwarmView:
        """As `Generations.swarm`."""
        return self._inner.swarm()

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """As `Generations.embed`; it gives no tokens out, so nothing is recorded."""
        return await self._inner.embed(request)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """As `Generations.generate`."""
        account = _Account(self._recorder, self._clock, is_resumed=request.resume is not None)
        async with aclosing(self._inner.generate(request)) as events:
            async for event in events:
                if isinstance(event, Started | Rerouted) and not self._recorder.knows(_ids(event.pipeline)):
                    self._recorder.see(self.swarm())  # somebody new: his name counts from his first token on
                account.observe(event)
                yield event


class _Account:
    """One generation, as it goes."""

    def __init__(self, recorder: Recorder, clock: Callable[[], float], *, is_resumed: bool) -> None:
        self._recorder = recorder
        self._clock = clock
        self._asked_s = clock()
        self._last_s: float | None = None
        self._has_first = is_resumed  # its first token came from another coordinator
        self._model_id = ""
        self._node_ids: tuple[str, ...] = ()

    def observe(self, event: GenerationEvent) -> None:
        match event:
            case Started():
                self._model_id = event.model_id
                self._node_ids = _ids(event.pipeline)
            case Rerouted():
                self._node_ids = _ids(event.pipeline)
                self._recorder.recovery(self._model_id)
            case Chunk() if event.tokens:
                self._tokens(len(event.tokens))

    def _tokens(self, num_tokens: int) -> None:
        now_s = self._clock()
        if self._last_s is not None:
            self._recorder.gap(self._model_id, (now_s - self._last_s) / num_tokens, num_tokens)
        elif not self._has_first:
            self._recorder.first_token(self._model_id, now_s - self._asked_s)
        self._last_s = now_s
        self._recorder.tokens(self._model_id, self._node_ids, num_tokens, now_s)


def _ids(pipeline: tuple[StageView, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(stage.node_id for stage in pipeline))
