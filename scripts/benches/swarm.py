"""A local swarm as a bench uses it: `osai up` beside it, `osai.client` to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.benches.program import running

from osai.client import AsyncClient, Chunk
from osai.client.up.plan import even_spans

START_DEADLINE_S = 180.0  # `osai up` itself gives up after 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One generation.

    Attributes:
        arrivals: (seconds, tokens that came then), on one clock.
        start_s: when it was asked for, on the same clock.
    """

    token_ids: tuple[int, ...]
    arrivals: tuple[tuple[float, int], ...]
    start_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        """Seconds until the first token."""
        return self.arrivals[0][0] - self.start_s


@asynccontextmanager
async def local_swarm(
    folder: Path, *, num_layers: int, num_stages: int, dtype: str, num_threads: int, memory: str | None = None
) -> AsyncIterator[AsyncClient]:
    """A swarm of `num_stages` node processes with even spans of the checkpoint; gives a client of its coordinator.

    Args:
        folder: of the checkpoint.
        num_layers: of it.
        num_stages: nodes.
        dtype: they run in.
        num_threads: torch threads of each.
        memory: of each, as in 3GiB; None for a share of what is free.
    """
    spans = ",".join(str(span) for span in even_spans(num_layers, num_stages))
    arguments = ["up", "--json", "--model", str(folder), "--spans", spans, "--dtype", dtype]
    arguments += ["--threads", str(num_threads), *(("--memory", memory) if memory else ())]
    async with running(f"the swarm of {num_stages}", "osai.client", *arguments) as up:
        ready = await up.answer(START_DEADLINE_S)
        async with AsyncClient(str(ready["grpc"])) as client:
            yield client


async def generate(client: AsyncClient, prompt: Sequence[int], num_tokens: int) -> Generated:
    """One greedy generation, past any end-of-sequence."""
    token_ids: list[int] = []
    arrivals: list[tuple[float, int]] = []
    start_s = time.perf_counter()
    async with aclosing(client.generate(prompt, max_tokens=num_tokens, temperature=0.0, ignore_eos=True)) as events:
        async for event in events:
            if isinstance(event, Chunk) and event.tokens:
                arrivals.append((time.perf_counter(), len(event.tokens)))
                token_ids += [token.token_id for token in event.tokens]
    return Generated(token_ids=tuple(token_ids), arrivals=tuple(arrivals), start_s=start_s)


async def generate_all(client: AsyncClient, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[Generated]:
    """Generations that begin at once, in the order of their prompts."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(generate(client, prompt, num_tokens)) for prompt in prompts]
    return [task.result() for task in tasks]
