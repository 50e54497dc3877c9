"""A generation that goes on beside others, and when its tokens came."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from osai.client import AsyncClient, Chunk
from osai.core.errors import DeadlineExceededError, UnavailableError

DEADLINE_S = 300.0  # for the tokens that are waited for
LOOK_S = 0.005


class Arrivals:
    """When the running session's tokens came, so far."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._ended = False

    async def follow(self, client: AsyncClient, prompt: Sequence[int]) -> None:
        """Generate, greedily, until cancelled or the context is full."""
        try:
            async with aclosing(client.generate(prompt, temperature=0.0, ignore_eos=True)) as events:
                async for event in events:
                    if isinstance(event, Chunk) and event.tokens:
                        self.times.append(time.perf_counter())
        finally:
            self._ended = True

    async def reach(self, count: int) -> None:
        """Return once so many tokens have come.

        Raises:
            UnavailableError: if the session has ended before.
            DeadlineExceededError: if they do not come in time.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                while len(self.times) < count:
                    if self._ended:
                        raise UnavailableError(f"the running session ended after {len(self.times)} tokens")
                    await asyncio.sleep(LOOK_S)
        except TimeoutError as e:
            raise DeadlineExceededError(f"{count} tokens took more than {DEADLINE_S:g} s") from e


@asynccontextmanager
async def running_session(client: AsyncClient, prompt: Sequence[int]) -> AsyncIterator[Arrivals]:
    """One generation that runs while the block does."""
    arrivals = Arrivals()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(arrivals.follow(client, prompt))
        yield arrivals
        task.cancel()
