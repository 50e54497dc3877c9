"""Generations, measured as one front door sees them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from osai.coordinator.api import (
    Chunk,
    Embedding,
    EmbeddingRequest,
    Finished,
    GenerationEvent,
    GenerationRequest,
    Generations,
    Rerouted,
    Started,
    SwarmView,
)
from osai.coordinator.gateway.errors import error_code
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.tracing.phases import Phase, observed
from osai.core.errors import InternalError, OsaiError

NO_MODEL = "none"  # the label of what never started: a client's own words would make labels without bound


class MeteredGenerations:
    """The coordinator behind one front door, each generation counted and timed. A `Generations` itself."""

    def __init__(self, inner: Generations, *, metrics: Metrics, api: str, clock: Callable[[], float]) -> None:
        self._inner = inner
        self._metrics = metrics
        self._api = api
        self._clock = clock

    def swarm(self) -> SwarmView:
        """As `Generations.swarm`."""
        return self._inner.swarm()

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """As `Generations.embed`."""
        found = await self._inner.embed(request)
        self._metrics.prompt_tokens.labels(self._api, found.model_id).inc(found.num_prompt_tokens)
        return found

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """As `Generations.generate`."""
        meter = _Meter(self._metrics, self._api, self._clock)
        self._metrics.running.labels(self._api).inc()
        outcome = error_code(InternalError(""))
        try:
            async with aclosing(observed(self._inner.generate(request), meter.entered)) as events:
                async for event in events:
                    meter.observe(event)
                    if isinstance(event, Finished):
                        outcome = event.reason
                    yield event
        except OsaiError as e:
            outcome = error_code(e)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = outcome if meter.finished else "cancelled"
            raise
        finally:
            self._metrics.running.labels(self._api).dec()
            meter.end(outcome)


class _Meter:
    """The times and counts of one generation."""

    def __init__(self, metrics: Metrics, api: str, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._labels = (api, NO_MODEL)
        self._clock = clock
        self._began_s = clock()
        self._queued_s: float | None = None  # since when it waits
        self._waited_s: float | None = None
        self._first_token_s: float | None = None
        self._last_token_s = 0.0
        self._num_tokens = 0
        self._is_open = self.finished = False

    def entered(self, phase: Phase) -> None:
        """The generation is at something else."""
        if phase is Phase.QUEUEING:
            self._queued_s = self._clock()
        elif self._queued_s is not None:
            self._waited_s = (self._waited_s or 0.0) + self._clock() - self._queued_s
            self._queued_s = None

    def observe(self, event: GenerationEvent) -> None:
        """The client is told something."""
        match event:
            case Started():
                self._started(event)
            case Chunk() if event.tokens:
                self._tokens(len(event.tokens))
            case Rerouted():
                self._metrics.recoveries.labels(*self._labels).inc()
                self._metrics.pause_s.labels(*self._labels).observe(event.pause_s)
            case Finished():
                self.finished = True

    def _started(self, event: Started) -> None:
        self._labels = (self._labels[0], event.model_id)
        self._metrics.prompt_tokens.labels(*self._labels).inc(event.num_prompt_tokens)
        self._metrics.cached_tokens.labels(*self._labels).inc(event.num_cached_tokens)
        self._metrics.requests_running.labels(*self._labels).inc()
        self._is_open = True
        if self._waited_s is not None:  # one that was resumed had its place already
            self._metrics.queue_s.labels(*self._labels).observe(self._waited_s)

    def _tokens(self, num_tokens: int) -> None:
        now = self._clock()
        self._metrics.generation_tokens.labels(*self._labels).inc(num_tokens)
        if self._first_token_s is None:
            self._first_token_s = now
            self._metrics.ttft_s.labels(*self._labels).observe(now - self._began_s)
        else:
            gap_s = (now - self._last_token_s) / num_tokens  # tokens that come together share their wait
            for _ in range(num_tokens):
                self._metrics.inter_token_s.labels(*self._labels).observe(gap_s)
            self._num_tokens += num_tokens
        self._last_token_s = now

    def end(self, outcome: str) -> None:
        """It is over."""
        if self._is_open:
            self._metrics.requests_running.labels(*self._labels).dec()
        if self._first_token_s is not None and self._num_tokens:
            mean_s = (self._last_token_s - self._first_token_s) / self._num_tokens
            self._metrics.token_s.labels(*self._labels).observe(mean_s)
        self._metrics.generations.labels(*self._labels, outcome).inc()
        self._metrics.total_s.labels(*self._labels).observe(self._clock() - self._began_s)
