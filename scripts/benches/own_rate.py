"""What each stage of a pipeline could do by itself: rows of a step / its time, in a process of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median

from scripts.benches.bench_model import BenchModel
from scripts.benches.program import Program
from scripts.benches.span_child import span_child

from osai.client.up.plan import even_spans

ALONE, TOGETHER = "alone", "together"  # whether the other stages compute meanwhile
KV_BYTES = 512 * 2**20
ANSWER_DEADLINE_S = 300.0


class OwnRates:
    """The stages of a pipeline, each in a process with one thread, and the rates at which they ran.

    Attributes:
        group_size: sessions in a step, if they spread evenly over groups, one for each stage.
    """

    def __init__(self, model: BenchModel, dtype: str, *, num_stages: int, num_sessions: int) -> None:
        self._model, self._dtype, self._num_sessions = model, dtype, num_sessions
        self._spans = even_spans(model.num_layers, num_stages)
        self.group_size = max(1, num_sessions // num_stages)
        self._stages: list[Program] = []
        self._context = self._num_steps = 0
        # tokens/s by (when, rows), then by stage, one a turn
        self._rates: dict[tuple[str, int], list[list[float]]] = {}

    @asynccontextmanager
    async def loaded(self, context: int, num_steps: int) -> AsyncIterator[None]:
        """Run the processes while the block does; steps begin at `context` tokens, so many in each turn."""
        self._context, self._num_steps = context, num_steps
        async with AsyncExitStack() as stack:
            for span in self._spans:
                child = span_child(self._model.folder, span, dtype=self._dtype, num_threads=1, kv_bytes=KV_BYTES)
                self._stages.append(await stack.enter_async_context(child))
            await self._all_at_once(self.group_size)  # warms up
            yield
            self._stages.clear()

    async def turn(self) -> None:
        """Measure every stage alone, then all of them together."""
        for rows in sorted({self.group_size, self._num_sessions}):
            self._note(ALONE, rows, [await self._rate(stage, rows) for stage in self._stages])
        self._note(TOGETHER, self.group_size, await self._all_at_once(self.group_size))

    def slowest(self, when: str, rows: int) -> list[float]:
        """Tokens/s of the stage with the lowest median rate, one a turn."""
        return min(self._rates[when, rows], key=median)

    def as_json(self) -> dict[str, list[list[float]]]:
        """All rates: by stage, one a turn."""
        return {f"{when}, steps of {rows}": stages for (when, rows), stages in self._rates.items()}

    def _note(self, when: str, rows: int, found: list[float]) -> None:
        stages = self._rates.setdefault((when, rows), [[] for _ in found])
        for rates, rate in zip(stages, found, strict=True):
            rates.append(rate)

    async def _all_at_once(self, rows: int) -> list[float]:
        """Each stage's rate while the others run; each is asked again until the slowest has been measured."""
        slowest_done = asyncio.Event()
        running = len(self._stages)

        async def measure(stage: Program) -> float:
            nonlocal running
            rate = await self._rate(stage, rows)
            running -= 1
            if running == 0:
                slowest_done.set()
            while not slowest_done.is_set():
                await self._rate(stage, rows)  # only keeps its core busy
            return rate

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(measure(stage)) for stage in self._stages]
        return [task.result() for task in tasks]

    async def _rate(self, stage: Program, rows: int) -> float:
        question = {"do": "decode", "sessions": rows, "context": self._context, "steps": self._num_steps}
        answer = await stage.ask(question, ANSWER_DEADLINE_S)
        return rows / float(median(answer["step_s"]))
