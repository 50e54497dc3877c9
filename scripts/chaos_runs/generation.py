"""One generation as its client sees it, and what is wrong with it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

from scripts.chaos_runs.asked import Asked

from osai.client import AsyncClient, Chunk, Completion, Finished, Rerouted, Stage, Started, Timeouts
from osai.client.completion import partial_of
from osai.core.errors import OsaiError, UnavailableError

DEADLINE_S = 120.0  # of anything that is waited for
LOOK_S = 0.002


class Generation:
    """Follows one generation to its end, whatever that is.

    Attributes:
        asked: what was asked for.
        token_ids: so far.
        arrivals: when tokens came, on the clock of time.monotonic().
        started_s: when its session was open; None until then.
        rerouted: when Rerouted came, with it.
        pipeline: the last one known.
        error: what ended it, other than its end.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.token_ids: list[int] = []
        self.arrivals: list[float] = []
        self.started_s: float | None = None
        self.rerouted: list[tuple[float, Rerouted]] = []
        self.pipeline: tuple[Stage, ...] = ()
        self.error: OsaiError | None = None
        self.partial: Completion | None = None
        self._gaps: list[str] = []
        self._finished: Finished | None = None
        self._over = False

    async def follow(self, client: AsyncClient, timeouts: Timeouts | None = None) -> None:
        """Generate; errors of the swarm are kept, not raised."""
        try:
            stream = client.generate(self.asked.prompt, timeouts=timeouts, **self.asked.options)
            async with aclosing(stream) as events:
                async for event in events:
                    self._take(event, time.monotonic())
        except OsaiError as e:
            self.error, self.partial = e, partial_of(e)
        finally:
            self._over = True

    async def opened(self) -> None:
        """Return once its session is open; errors as of `reach`."""
        await self._until(lambda: self.started_s is not None, "to be open")

    async def reach(self, count: int) -> None:
        """Return once so many tokens have come.

        Raises:
            UnavailableError: if it has ended before.
            TimeoutError: if they do not come in time.
        """
        await self._until(lambda: len(self.token_ids) >= count, f"to have {count} tokens")

    async def reroute(self) -> float:
        """Return once it has gone on elsewhere; when that was. Errors as of `reach`."""
        await self._until(lambda: bool(self.rerouted), "to be rerouted")
        return self.rerouted[0][0]

    def pause_s(self, fault_s: float) -> float:
        """The longest time without a token from `fault_s` on."""
        times = [fault_s, *(at for at in self.arrivals if at > fault_s)]
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def problems(self, expected: Sequence[int]) -> list[str]:
        """What is wrong with a generation that must be whole, in words; nothing if it is right."""
        found = [*self._gaps]
        if self.error is not None:
            found.append(f"ended with {type(self.error).__name__}: {self.error.message}")
        elif self._finished is None or len(self.token_ids) != len(expected):
            found.append(f"{len(self.token_ids)} tokens of {len(expected)}")
        return found + self.differences(expected)

    def differences(self, expected: Sequence[int]) -> list[str]:
        """Where what has come differs from the undisturbed run."""
        pairs = enumerate(zip(self.token_ids, expected, strict=False))
        first = next((i for i, (came, due) in pairs if came != due), None)
        return [] if first is None else [f"token {first} is {self.token_ids[first]}, undisturbed {expected[first]}"]

    def _take(self, event: object, now_s: float) -> None:
        match event:
            case Started():
                self.started_s, self.pipeline = now_s, event.pipeline
            case Rerouted():
                self.rerouted.append((now_s, event))
                self.pipeline = event.pipeline or self.pipeline
            case Chunk() if event.tokens:
                if event.index != len(self.token_ids):
                    self._gaps.append(f"a chunk with index {event.index} came where {len(self.token_ids)} was due")
                self.token_ids += [token.token_id for token in event.tokens]
                self.arrivals.append(now_s)
            case Finished():
                self._finished = event

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                if self._over:
                    reason = "complete" if self.error is None else f"over: {self.error.message}"
                    raise UnavailableError(f"the generation was {what}, and is {reason}")
                await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def running(
    client: AsyncClient, asked: Sequence[Asked], timeouts: Timeouts | None = None
) -> AsyncIterator[list[Generation]]:
    """Generations that begin at once; the block ends when all of them have, or it has failed."""
    generations = [Generation(one) for one in asked]
    async with asyncio.timeout(2 * DEADLINE_S), asyncio.TaskGroup() as group:
        for generation in generations:
            group.create_task(generation.follow(client, timeouts))
        yield generations
