"""What an experiment is given, and what it gives."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from scripts.chaos_runs.asked import Asked, random_prompt
from scripts.chaos_runs.generation import Generation
from scripts.chaos_runs.swarm import ChaosSwarm, Shape
from scripts.chaos_runs.undisturbed import Undisturbed

from osai.client import AsyncClient

PREFILLS = (64, 512, 1024, 2048, 3072, 4096)  # tokens
FIXED_PAUSE_S = 1.0
PREFILL_FACTOR = 1.5  # of the prefill of the lost span


@dataclass(slots=True)
class PrefillTimes:
    """How long the swarm takes to the first token of a prompt that is new to it, once the session is open."""

    samples: dict[int, float] = field(default_factory=dict)

    def at(self, num_tokens: int) -> float:
        """Seconds, linear between what was measured."""
        known = sorted(self.samples.items())
        below = max((pair for pair in known if pair[0] <= num_tokens), default=known[0])
        above = min((pair for pair in known if pair[0] >= num_tokens), default=known[-1])
        if below[0] == above[0]:
            return below[1]
        return below[1] + (above[1] - below[1]) * (num_tokens - below[0]) / (above[0] - below[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """A swarm under test, and the truth beside it.

    Attributes:
        client: knows every coordinator; no relay lies between.
        prefill: of the whole pipeline, as measured in this swarm before the first fault.
    """

    swarm: ChaosSwarm
    client: AsyncClient
    undisturbed: Undisturbed
    prefill: PrefillTimes

    def span_prefill_s(self, num_tokens: int) -> float:
        """Prefill of one lost span: a stage's share of the pipeline's, which is at most what the span takes alone."""
        return self.prefill.at(num_tokens) / len(self.swarm.shape.spans)

    def bar_s(self, num_tokens: int) -> float:
        """How long the pause after the loss of a span with so many rows may be."""
        return FIXED_PAUSE_S + PREFILL_FACTOR * self.span_prefill_s(num_tokens)

    async def problems(self, generations: Sequence[Generation]) -> list[str]:
        """What is wrong with generations that must be whole and as undisturbed."""
        found = []
        for i, generation in enumerate(generations):
            expected = await self.undisturbed.tokens(generation.asked)
            found += [f"session {i}: {problem}" for problem in generation.problems(expected)]
        return found


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What one run showed.

    Attributes:
        problems: why it failed, in words; none if it passed.
        pause_s: that the client saw; None where it is not measured.
        bar_s: at most so long at the 95th percentile; None for no bar.
        notes: further figures.
    """

    problems: list[str] = field(default_factory=list)
    pause_s: float | None = None
    bar_s: float | None = None
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One kind of fault.

    Attributes:
        num_runs: of a full campaign.
        run: one run; the swarm is whole before it, and is made whole after it.
        bar: what is to be met, in words.
        needs_prefill: whether it needs to know how long this swarm's prefill takes.
        deadline_s: of one run.
    """

    name: str
    num_runs: int
    shape: Shape
    run: Callable[[Arena, random.Random], Awaitable[Verdict]]
    bar: str
    needs_prefill: bool = False
    deadline_s: float = 300.0


async def measure_prefill(client: AsyncClient, draw: random.Random, repeats: int = 2) -> PrefillTimes:
    """Measure the swarm's prefill: the least of `repeats` for each length, so that other work does not count."""
    times = PrefillTimes()
    for num_tokens in PREFILLS:
        for _ in range(repeats):
            generation = Generation(Asked(prompt=random_prompt(draw, num_tokens), num_tokens=2))
            async with asyncio.timeout(60.0):
                await generation.follow(client)
            if generation.error is not None:
                raise generation.error
            took_s = generation.arrivals[0] - (generation.started_s or 0.0)
            times.samples[num_tokens] = min(took_s, times.samples.get(num_tokens, took_s))
    return times
