"""A local swarm as a bench uses it: `osai up` beside it, `osai.client` to it."""

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
    """

    token_ids: tuple[int, ...]
    arrivals: tuple[tuple[float, int], ...]


@asynccontextmanager
async def local_swarm(
    folder: Path, *, num_layers: int, num_stages: int, dtype: str, num_threads: int
) -> AsyncIterator[AsyncClient]:
    """A swarm of `num_stages` node processes with even spans of the checkpoint; gives a client of its coordinator."""
    spans = ",".join(str(span) for span in even_spans(num_layers, num_stages))
    arguments = ("up", "--json", "--model", str(folder), "--spans", spans, "--dtype", dtype)
    async with running(f"the swarm of {num_stages}", "osai.client", *arguments, "--threads", str(num_threads)) as up:
        ready = await up.answer(START_DEADLINE_S)
        async with AsyncClient(str(ready["grpc"])) as client:
            yield client


async def generate(client: AsyncClient, prompt: Sequence[int], num_tokens: int) -> Generated:
    """One greedy generation, past any end-of-sequence."""
    token_ids: list[int] = []
    arrivals: list[tuple[float, int]] = []
    async with aclosing(client.generate(prompt, max_tokens=num_tokens, temperature=0.0, ignore_eos=True)) as events:
        async for event in events:
            if isinstance(event, Chunk) and event.tokens:
                arrivals.append((time.perf_counter(), len(event.tokens)))
                token_ids += [token.token_id for token in event.tokens]
    return Generated(token_ids=tuple(token_ids), arrivals=tuple(arrivals))
