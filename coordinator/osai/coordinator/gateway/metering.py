"""Generations, measured as one front door sees them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from osai.coordinator.api import (
    Chunk,
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

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """As `Generations.generate`."""
        meter = _Meter(self._metrics, self._api, self._clock)
        self._metrics.running.labels(self._api).inc()
        outcome = error_code(InternalError(""))
        try:
            async with aclosing(self._inner.generate(request)) as events:
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
        self._last_token_s: float | None = None
        self.finished = False

    def observe(self, event: GenerationEvent) -> None:
        match event:
            case Started():
                self._labels = (self._labels[0], event.model_id)
                self._metrics.prompt_tokens.labels(*self._labels).inc(event.num_prompt_tokens)
            case Chunk() if event.tokens:
                self._tokens(len(event.tokens))
            case Rerouted():
                self._metrics.recoveries.labels(*self._labels).inc()
                self._metrics.pause_s.labels(*self._labels).observe(event.pause_s)
            case Finished():
                self.finished = True

    def _tokens(self, num_tokens: int) -> None:
        now = self._clock()
        self._metrics.generation_tokens.labels(*self._labels).inc(num_tokens)
        if self._last_token_s is None:
            self._metrics.ttft_s.labels(*self._labels).observe(now - self._began_s)
        else:
            gap_s = (now - self._last_token_s) / num_tokens  # tokens that come together share their wait
            for _ in range(num_tokens):
                self._metrics.inter_token_s.labels(*self._labels).observe(gap_s)
        self._last_token_s = now

    def end(self, outcome: str) -> None:
        self._metrics.generations.labels(*self._labels, outcome).inc()
        self._metrics.total_s.labels(*self._labels).observe(self._clock() - self._began_s)
