"""Steps of one span as a node's engine runs them, in this process and without a network."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import torch

from osai.core.errors import DeadlineExceededError, InternalError, OsaiError, ResourceExhaustedError
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Input, Rows, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.engine.options import EngineOptions
from osai.node.engine.span_model import SpanModel

KEY = "span"
DEADLINE_S = 300.0  # of any one step; a prompt's chunk in float32 on a busy machine takes seconds
OPEN_DEADLINE_S = 2.0  # a session that waits for longer has no room
QUIET_S = 1.1  # after which the engine no longer waits for rows of a session that pauses
POLL_S = 2e-5  # between looks whether the engine has taken what waits
MAX_TORN = 8  # rounds in a row that may not be one step
ROWS_A_MEASUREMENT = 16  # so many are queued while the engine thread measures once, on any device


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Of steps that follow each other without a pause.

    Attributes:
        step_s: seconds in the engine thread, by step.
        interval_s: seconds from one step's results on the event loop to the next's.
    """

    step_s: tuple[float, ...]
    interval_s: tuple[float, ...]


class SpanSteps:
    """A started engine that hosts one span."""

    def __init__(self, model: SpanModel, options: EngineOptions, seed: int = 0) -> None:
        self._model, self._draw = model, torch.Generator().manual_seed(seed)
        self._failure: OsaiError | None = None
        self._outputs: asyncio.Queue[tuple[float, StepOutput]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.engine = Engine(self._loop, self._landed, self._failed, options)
        self._next_session = 1
        self._decoding: frozenset[int] = frozenset()

    def _landed(self, output: StepOutput) -> None:
        self._outputs.put_nowait((self._loop.time(), output))

    def _failed(self, error: OsaiError) -> None:
        self._failure = error

    async def open(self, num_prompt_tokens: int, max_total_tokens: int, num_stages: int = 1) -> int:
        """Open a session that is greedy where the span is the tail; its number."""
        session = self._next_session
        self._next_session += 1
        await self.engine.open(
            SessionSpec(
                session=session,
                span=KEY,
                num_prompt_tokens=num_prompt_tokens,
                max_total_tokens=max_total_tokens,
                sampling=SamplingParams() if self._model.is_tail else None,
                num_stages=num_stages,
            )
        )
        return session

    async def prefill(self, session: int, num_tokens: int) -> tuple[float, ...]:
        """Run a prompt that is there at once; seconds of each of its steps, in order."""
        self._submit_all(self._rows([session], 0, num_tokens))
        times: list[float] = []
        done = 0
        while done < num_tokens:
            _, output = await self._output()
            times.append(output.step_time_s)
            done += sum(rows.count for rows in output.rows)
        return tuple(times)

    async def decode(self, sessions: Sequence[int], position: int, num_steps: int, *, held: bool = False) -> StepTimes:
        """Run decode steps of one row of each session, from `position` on.

        Args:
            sessions: whose.
            position: of their first rows; what they have from there on is cut.
            num_steps: that count.
            held: whether the engine thread is held while rows are queued, which it must be where a step takes less time
                than that. Otherwise the next step's rows wait behind each step, so that steps follow without a pause.

        Raises:
            InternalError: if the engine does not run the rows that wait in one step.
        """
        step_s: list[float] = []
        interval_s: list[float] = []
        torn, before, num_queued = 0, 0.0, 0  # rounds that are queued or run
        if not self._decoding.issubset(sessions):
            await asyncio.sleep(QUIET_S)
        self._decoding = frozenset(sessions)
        while len(step_s) < num_steps:
            if num_queued == 0:
                await self._submit_held(sessions, position)
                position, num_queued = position + 1, 1
            if not held:
                await self._taken()
                self._submit_all(self._rows(sessions, position))
                position, num_queued = position + 1, num_queued + 1
            at, time_s = await self._round(len(sessions))
            num_queued -= 1
            if time_s and before and not held:
                interval_s.append(at - before)
            if time_s:
                step_s.append(time_s)
            torn, before = (0, at) if time_s else (torn + 1, 0.0)
            if torn > MAX_TORN:
                if held:
                    raise InternalError(f"the engine does not run {len(sessions)} rows that wait in one step")
                held, torn = True, 0
        if num_queued:
            await self._round(len(sessions))
        return StepTimes(step_s=tuple(step_s), interval_s=tuple(interval_s))

    async def fit(self, num_tokens: int) -> int:
        """Open sessions of so many tokens until there is no room; how many there were."""
        count = 0
        with suppress(ResourceExhaustedError, TimeoutError):  # refused, or told to wait
            while True:
                async with asyncio.timeout(OPEN_DEADLINE_S):
                    await self.open(num_tokens - 1, num_tokens)
                count += 1
        return count

    async def _submit_held(self, sessions: Sequence[int], position: int) -> None:
        """Queue rows while the engine thread is busy with measurements, so that it takes them all at once."""
        inputs = self._rows(sessions, position)
        num_measurements = 1 + len(sessions) // ROWS_A_MEASUREMENT
        measuring = asyncio.gather(*(self.engine.measure(KEY) for _ in range(num_measurements)))
        await asyncio.sleep(0)
        self._submit_all(inputs)
        await measuring

    async def _taken(self) -> None:
        """Return once no rows wait: what was submitted is in a step."""
        async with asyncio.timeout(DEADLINE_S):
            while self.engine.num_waiting_rows(KEY):
                if self._failure is not None:
                    raise self._failure
                await asyncio.sleep(POLL_S)

    async def _round(self, num_rows: int) -> tuple[float, float]:
        """Wait for the results of one row of each session: when they came, and the step's seconds; 0 if it was torn."""
        at, output = await self._output()
        whole, done = len(output.rows) == num_rows, len(output.rows)
        while done < num_rows:
            at, output = await self._output()
            done += len(output.rows)
        return at, output.step_time_s if whole else 0.0

    async def _output(self) -> tuple[float, StepOutput]:
        try:
            async with asyncio.timeout(DEADLINE_S):
                at, output = await self._outputs.get()
        except TimeoutError as e:
            raise self._failure or DeadlineExceededError(f"no step ended within {DEADLINE_S:g} s") from e
        for _, error in output.failed:
            raise error
        return at, output

    def _submit_all(self, inputs: Sequence[Input]) -> None:
        for inp in inputs:
            self.engine.submit(inp)

    def _rows(self, sessions: Sequence[int], position: int, count: int = 1) -> list[Input]:
        """Random rows of each session."""
        return [
            Input(rows=Rows(session=session, epoch=0, position=position, count=count), data=self._data(count))
            for session in sessions
        ]

    def _data(self, count: int) -> torch.Tensor:
        model = self._model
        if model.is_head:
            return torch.randint(3, model.vocab_size, (count,), generator=self._draw)
        return torch.randn(count, model.hidden_size, generator=self._draw).to(model.dtype)


@asynccontextmanager
async def hosted(model: SpanModel, kv_budget_bytes: int, options: EngineOptions) -> AsyncIterator[SpanSteps]:
    """An engine with the span, as a node has it but for its network."""
    steps = SpanSteps(model, options)
    steps.engine.start()
    try:
        await steps.engine.add_span(KEY, model, kv_budget_bytes)
        yield steps
    finally:
        await steps.engine.stop()
