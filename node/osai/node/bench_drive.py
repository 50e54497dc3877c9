"""Drives a span's real engine: sessions, prompts, and decode steps of all of them together."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import torch

from osai.core.errors import InternalError, OsaiError
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Input, Rows, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.engine.options import EngineOptions
from osai.node.engine.span_model import SpanModel

_KEY = "bench"
_DEADLINE_S = 600.0  # for one step: a large prompt chunk on a slow machine
_MAX_TRIES = 5  # times as many rounds as wanted: one whose rows went in two steps does not count


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One decode step of all sessions.

    Attributes:
        step_s: in the engine's thread.
        queueing_s: from the first row's submission to the results on the loop, without the step.
    """

    step_s: float
    queueing_s: float


class Drive:
    """Sessions on one span; use `running`."""

    def __init__(self, engine: Engine, span: SpanModel, outputs: "asyncio.Queue[tuple[float, StepOutput]]") -> None:
        self._engine, self._span, self._outputs = engine, span, outputs
        self._positions: dict[int, int] = {}

    @classmethod
    @asynccontextmanager
    async def running(cls, span: SpanModel, kv_bytes: int, num_threads: int) -> AsyncIterator[Self]:
        """Start an engine for a span, and stop it afterwards.

        Raises:
            OsaiError: if the span can't be hosted.
        """
        outputs: asyncio.Queue[tuple[float, StepOutput]] = asyncio.Queue()
        failed: list[OsaiError] = []
        engine = Engine(
            asyncio.get_running_loop(),
            lambda output: outputs.put_nowait((time.perf_counter(), output)),
            failed.append,
            EngineOptions(num_threads=num_threads),
        )
        engine.start()
        try:
            await engine.add_span(_KEY, span, kv_bytes)
            yield cls(engine, span, outputs)
        finally:
            await engine.stop()

    async def open(self, session: int, context: int, room: int) -> None:
        """Open a session and run a prompt of `context` tokens through it; `room` more may follow."""
        sampling = SamplingParams() if self._span.is_tail else None
        await self._engine.open(
            SessionSpec(
                session=session,
                span=_KEY,
                num_prompt_tokens=context,
                max_total_tokens=context + room,
                sampling=sampling,
                scope=str(session),  # nothing is shared
            )
        )
        self._positions[session] = 0
        self._submit(session, context)
        done = 0
        while done < context:
            done += sum(rows.count for rows in (await self._next())[1].rows)

    async def close(self) -> None:
        """End all sessions."""
        for session in self._positions:
            await self._engine.close(session)
        self._positions.clear()

    async def decode(self, sessions: Sequence[int], num_rounds: int) -> list[Round]:
        """So many steps of one row of each session.

        Raises:
            InternalError: if the engine does not take their rows into one step.
        """
        rounds: list[Round] = []
        for _ in range(num_rounds * _MAX_TRIES):
            start_s = time.perf_counter()
            for session in sessions:
                self._submit(session, 1)
            done_s, output = await self._next()
            if len(output.rows) == len(sessions):
                queueing_s = done_s - start_s - output.step_time_s
                rounds.append(Round(step_s=output.step_time_s, queueing_s=max(queueing_s, 0.0)))
            count = len(output.rows)
            while count < len(sessions):
                count += len((await self._next())[1].rows)
            if len(rounds) == num_rounds:
                return rounds
        raise InternalError(f"the engine took {len(sessions)} rows into one step only {len(rounds)} times")

    async def _next(self) -> tuple[float, StepOutput]:
        async with asyncio.timeout(_DEADLINE_S):
            at_s, output = await self._outputs.get()
        for _, error in output.failed:
            raise error
        return at_s, output

    def _submit(self, session: int, count: int) -> None:
        position = self._positions[session]
        rows = Rows(session=session, epoch=0, position=position, count=count)
        self._engine.submit(Input(rows=rows, data=self._data(session, position, count)))
        self._positions[session] = position + count

    def _data(self, session: int, position: int, count: int) -> torch.Tensor:
        """Anything that the span takes: [count] token ids, or [count, hidden_size]."""
        generator = torch.Generator().manual_seed(session * 1_000_003 + position)
        if self._span.is_head:
            return torch.randint(self._span.vocab_size, (count,), generator=generator)
        return torch.randn(count, self._span.hidden_size, generator=generator).to(self._span.dtype)
