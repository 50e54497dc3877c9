"""The tokens of an undisturbed run: all layers on one engine in this process, without a network, a swarm or a fault."""

import asyncio
from collections.abc import AsyncIterator, Iterable
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
    """Generates what is asked for; what was asked before comes from memory."""

    def __init__(self) -> None:
        self._tokens: dict[int, asyncio.Queue[int | OsaiError]] = {}  # by session
        self.engine = Engine(asyncio.get_running_loop(), self._take, self._fail, EngineOptions(num_threads=1))
        self._known: dict[Asked, tuple[int, ...]] = {}
        self._last_session = 0

    async def prepare(self, asked: Iterable[Asked]) -> None:
        """Generate several at once: by the time that they are needed they are known.

        Raises:
            ExceptionGroup: of what `tokens` raises.
        """
        async with asyncio.TaskGroup() as group:
            for one in asked:
                group.create_task(self.tokens(one))

    async def tokens(self, asked: Asked) -> tuple[int, ...]:
        """What the request gives.

        Raises:
            OsaiError: if the engine fails.
            TimeoutError: if it takes too long.
        """
        if asked not in self._known:
            async with asyncio.timeout(DEADLINE_S):
                self._known[asked] = await self._generate(asked)
        return self._known[asked]

    async def _generate(self, asked: Asked) -> tuple[int, ...]:
        self._last_session += 1
        session, num_prompt_tokens = self._last_session, len(asked.prompt)
        drawn = self._tokens[session] = asyncio.Queue()
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
            told = await drawn.get()
            if isinstance(told, OsaiError):
                raise told
            token_ids.append(told)
            if len(token_ids) < asked.num_tokens:
                self._submit(session, num_prompt_tokens + len(token_ids) - 1, token_ids[-1:])
        await self.engine.close(session)
        del self._tokens[session]
        return tuple(token_ids)

    def _submit(self, session: int, position: int, token_ids: tuple[int, ...] | list[int]) -> None:
        rows = Rows(session=session, epoch=0, position=position, count=len(token_ids))
        self.engine.submit(Input(rows=rows, data=torch.tensor(token_ids)))

    def _take(self, output: StepOutput) -> None:
        for sampled in output.sampled:
            self._tell(sampled.session, sampled.token_id)
        for rows, error in output.failed:
            self._tell(rows.session, error)

    def _fail(self, error: OsaiError) -> None:
        for session in self._tokens:
            self._tell(session, error)

    def _tell(self, session: int, told: int | OsaiError) -> None:
        if (drawn := self._tokens.get(session)) is not None:
            drawn.put_nowait(told)


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
