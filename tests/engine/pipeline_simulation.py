"""A pipeline of real schedulers on a virtual clock: steps take what they are said to take, frames take a hop."""

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from osai.node.engine.api import Input, Rows, SessionSpec
from osai.node.engine.options import StepLimits
from osai.node.engine.scheduler import Chunk, StepScheduler

Cost = Callable[[int], float]  # seconds of a step by number of rows
_PREFILL_LAG_S = 0.0001  # prompts' frames come on a stream of their own, a little after the decode rows of their step


def spec_of(session: int, num_prompt_tokens: int = 1, num_stages: int = 1) -> SessionSpec:
    return SessionSpec(
        session=session,
        span="span",
        num_prompt_tokens=num_prompt_tokens,
        max_total_tokens=1 << 20,
        num_stages=num_stages,
    )


class PipelineSimulation:
    """Sessions that generate without end.

    Args:
        costs: of each stage.
        hop_s: one way between any two stages.
        jitter: a step takes up to some times this share longer, by a half-normal distribution.
        seed: of the jitter.
        limits: of all stages.
    """

    def __init__(
        self,
        costs: Sequence[Cost],
        hop_s: float,
        *,
        jitter: float = 0.02,
        seed: int = 0,
        limits: StepLimits | None = None,
    ) -> None:
        self.now_s = 0.0
        self.tokens: dict[int, list[float]] = defaultdict(list)  # session -> when the tail drew them
        self.steps: list[list[tuple[float, tuple[Chunk, ...]]]] = [[] for _ in costs]
        self._costs, self._hop_s, self._jitter, self._random = costs, hop_s, jitter, random.Random(seed)
        self._schedulers = [StepScheduler(limits or StepLimits(max_waiting_rows=1 << 20)) for _ in costs]
        self._running: list[tuple[Chunk, ...]] = [() for _ in costs]
        self._specs: dict[int, SessionSpec] = {}
        self._paths: dict[int, Sequence[int]] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def start(self, session: int, prompt: int, at_s: float, path: Sequence[int] | None = None) -> None:
        """Have a session begin, over all stages or those of `path`."""
        path = range(len(self._costs)) if path is None else path
        self._specs[session], self._paths[session] = spec_of(session, prompt, len(path)), path

        def begin() -> None:
            for stage in path:
                self._schedulers[stage].open(self._specs[session])
            self._arrive(path[0], [Rows(session=session, epoch=0, position=0, count=prompt)])

        self._at(at_s, begin)

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
        self.now_s = until_s

    def run_until_token(self, session: int, limit_s: float) -> None:
        """Let time pass until a session has its first token."""
        while not self.tokens[session] and self.now_s < limit_s:
            self.run(self.now_s + 0.005)

    def _at(self, time_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), event))

    def _arrive(self, stage: int, rows: list[Rows]) -> None:
        for part in rows:
            self._schedulers[stage].add(Input(rows=part, data=torch.empty(part.count, 0)), self.now_s)
        self._go_on(stage)

    def _go_on(self, stage: int) -> None:
        if self._running[stage]:
            return
        scheduler = self._schedulers[stage]
        chunks = scheduler.next_step(self.now_s)
        if chunks:
            num_rows = sum(chunk.rows.count for chunk in chunks)
            seconds = self._costs[stage](num_rows) * (1 + self._jitter * abs(self._random.gauss(0, 1)))
            self._running[stage] = chunks
            self.steps[stage].append((self.now_s, chunks))
            self._at(self.now_s + seconds, lambda: self._end(stage))
        elif scheduler.held_until_s is not None:
            assert scheduler.held_until_s > self.now_s
            self._at(scheduler.held_until_s, lambda: self._go_on(stage))
        else:
            assert not scheduler.num_waiting

    def _end(self, stage: int) -> None:
        chunks, self._running[stage] = self._running[stage], ()
        self._schedulers[stage].step_ended(self.now_s)
        frames: dict[tuple[int, bool], list[Rows]] = defaultdict(list)
        for rows in (chunk.rows for chunk in chunks):
            path, num_prompt = self._paths[rows.session], self._specs[rows.session].num_prompt_tokens
            at, end = path.index(stage), rows.position + rows.count
            if at + 1 < len(path):
                frames[path[at + 1], rows.count > 1 or rows.position < num_prompt].append(rows)
            elif end >= num_prompt:
                self.tokens[rows.session].append(self.now_s)
                frames[path[0], False].append(Rows(session=rows.session, epoch=0, position=end, count=1))
        for (successor, prefill), batch in frames.items():
            lag_s = self._hop_s + (_PREFILL_LAG_S if prefill else 0.0)
            self._at(self.now_s + lag_s, lambda to=successor, rows=batch: self._arrive(to, rows))  # type: ignore[misc]
        self._go_on(stage)
