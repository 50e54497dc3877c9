"""Generations, traced."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from osai.coordinator.api import Embedding, EmbeddingRequest, GenerationEvent, GenerationRequest, Generations, SwarmView
from osai.coordinator.tracing.incoming import caller
from osai.coordinator.tracing.phases import observed, observing
from osai.coordinator.tracing.request_trace import RequestTrace
from osai.core.errors import OsaiError
from osai.core.tracing.exporting import Tracer
from osai.core.tracing.span import SpanRef
from osai.proto import common_pb2


class TracedGenerations:
    """The coordinator behind its front doors, each request's spans given to a tracer. A `Generations` itself.

    Args:
        inner: the coordinator.
        tracer: takes the spans.
        wall_clock: seconds since 1970.
        random_bits: for ids of requests that open no session.
    """

    def __init__(
        self,
        inner: Generations,
        tracer: Tracer,
        wall_clock: Callable[[], float],
        random_bits: Callable[[int], int],
    ) -> None:
        self._inner = inner
        self._tracer = tracer
        self._wall_clock = wall_clock
        self._random_bits = random_bits

    def swarm(self) -> SwarmView:
        """As `Generations.swarm`."""
        return self._inner.swarm()

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """As `Generations.embed`."""
        trace, error = self._trace("embed"), "INTERNAL"
        try:
            with observing(lambda phase: trace.entered(phase, self._wall_clock())):
                found = await self._inner.embed(request)
            error = ""
        except OsaiError as e:
            error = _code(e)
            raise
        except asyncio.CancelledError:
            error = "CANCELLED"
            raise
        else:
            return found
        finally:
            self._end(trace, error)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """As `Generations.generate`."""
        trace, error = self._trace("generate"), "INTERNAL"
        running = observed(self._inner.generate(request), lambda phase: trace.entered(phase, self._wall_clock()))
        try:
            async with aclosing(running) as events:
                async for event in events:
                    trace.told(event, self._wall_clock())
                    yield event
            error = ""
        except OsaiError as e:
            error = _code(e)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            error = "" if trace.is_finished else "CANCELLED"
            raise
        finally:
            self._end(trace, error)

    def _trace(self, operation: str) -> RequestTrace:
        own = SpanRef(trace_id=self._random_bits(128) or 1, span_id=self._random_bits(64) or 1)
        return RequestTrace(operation, caller(), own, self._wall_clock())

    def _end(self, trace: RequestTrace, error: str) -> None:
        for span in trace.ended(self._wall_clock(), error=error):
            self._tracer.add(span)


def _code(error: OsaiError) -> str:
    """The error's code alone: its message may quote the request."""
    return common_pb2.ErrorCode.Name(error.code).removeprefix("ERROR_CODE_")
