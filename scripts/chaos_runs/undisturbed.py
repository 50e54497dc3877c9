"""The tokens of an undisturbed run: all layers on one engine in this process, without a network, a swarm or a fault."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from scripts.benches.span_child import load
from scripts.chaos_runs.asked import Asked
from scripts.chaos_runs.model import NUM_LAYERS

from osai.core.errors import OsaiError
from osai.core.layers import LayerRange
from osai.node.engine.api import Input, Rows, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.engine.options import EngineOptions

KEY = "whole"
KV_BYTES = 256 * 2**20
DEADLINE_S = 120.0  # of one generation


class Undisturbed:
    """Generates one request after the other; those that were asked before come from memory."""

    def __init__(self) -> None:
        self._outputs: asyncio.Queue[StepOutput | OsaiError] = asyncio.Queue()
        self.engine = Engine(
            asyncio.get_running_loop(), self._outputs.put_nowait, self._outputs.put_nowait, EngineOptions(num_threads=1)
        )
        self._known: dict[Asked, tuple[int, ...]] = {}

    async def tokens(self, asked: Asked) -> tuple[int, ...]:
        """What the request gives.

        Raises:
            OsaiError: if the engine fails.
            TimeoutError: if it takes too long.
        """
        if asked not in self._known:
            async with asyncio.timeout(DEADLINE_S):
                self._known[asked] = await self._generate(asked, len(self._known) + 1)
        return self._known[asked]

    async def _generate(self, asked: Asked, session: int) -> tuple[int, ...]:
        num_prompt_tokens = len(asked.prompt)
        await self.engine.open(
            SessionSpec(
                session=session,
                span=KEY,
                num_prompt_tokens=num_prompt_tokens,
                max_total_tokens=num_prompt_tokens + asked.num_tokens,
                sampling=asked.sampling,
            )
        )
        token_ids: list[int] = []
        self._submit(session, 0, asked.prompt)
        while len(token_ids) < asked.num_tokens:
            token_ids.append(await self._next())
            if len(token_ids) < asked.num_tokens:
                self._submit(session, num_prompt_tokens + len(token_ids) - 1, token_ids[-1:])
        await self.engine.close(session)
        return tuple(token_ids)

    def _submit(self, session: int, position: int, token_ids: tuple[int, ...] | list[int]) -> None:
        rows = Rows(session=session, epoch=0, position=position, count=len(token_ids))
        self.engine.submit(Input(rows=rows, data=torch.tensor(token_ids)))

    async def _next(self) -> int:
        while True:
            output = await self._outputs.get()
            if isinstance(output, OsaiError):
                raise output
            for _, error in output.failed:
                raise error
            if output.sampled:
                return output.sampled[0].token_id


@asynccontextmanager
async def undisturbed(folder: Path) -> AsyncIterator[Undisturbed]:
    """The engine, with the checkpoint's layers on it."""
    torch.set_num_threads(1)
    found = Undisturbed()
    found.engine.start()
    try:
        await found.engine.add_span(KEY, load(folder, LayerRange(0, NUM_LAYERS), torch.float32), KV_BYTES)
        yield found
    finally:
        await found.engine.stop()
