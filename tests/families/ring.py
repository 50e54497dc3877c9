"""A pipeline in one process: each span in an engine of its own; the event loop hands on hidden states and tokens."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from osai.core.errors import OsaiError
from osai.core.layers import LayerRange
from osai.core.prefix import block_hashes, shareable_hashes
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Input, Rows, Sampled, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.engine.options import EngineOptions
from osai.node.engine.span_model import load_span

KV_BUDGET_BYTES = 4_000_000
DEADLINE_S = 60.0


@dataclass(slots=True)
class Generation:
    """One session's tokens.

    Attributes:
        num_cached: of the prompt, which were not fed because every stage had their KV.
    """

    prompt: list[int]
    num_tokens: int
    sampled: list[Sampled] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: OsaiError | None = None
    epoch: int = 0
    num_cached: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def tokens(self) -> list[int]:
        return [s.token_id for s in self.sampled]

    async def reached(self, count: int) -> None:
        """Return once there are `count` tokens."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.sampled) < count:
                self.changed.clear()
                await self.changed.wait()


class Ring:
    """Spans [cuts[0], cuts[1]), [cuts[1], cuts[2]), ... of one checkpoint."""

    def __init__(self, config: Mapping[str, object], tensors: Mapping[str, object], cuts: Sequence[int]) -> None:
        self._config, self._tensors = config, tensors
        self._ranges = [LayerRange(start, end) for start, end in itertools.pairwise(cuts)]
        self.engines: list[Engine] = []
        self.sessions: dict[int, Generation] = {}
        self.step_sizes: list[list[int]] = [[] for _ in self._ranges]
        self.dead: list[OsaiError] = []

    async def start(self, options: EngineOptions, dtype: torch.dtype = torch.float32) -> None:
        loop = asyncio.get_running_loop()
        for stage, layers in enumerate(self._ranges):
            engine = Engine(loop, self._handler(stage), self.dead.append, options)
            engine.start()
            self.engines.append(engine)
            span = load_span(self._config, self._tensors, layers, dtype=dtype)
            await engine.add_span("span", span, KV_BUDGET_BYTES)

    async def stop(self) -> None:
        for engine in self.engines:
            await engine.stop()
        assert not self.dead

    async def open(
        self,
        session: int,
        prompt: Sequence[int],
        num_tokens: int,
        sampling: SamplingParams | None = None,
        *,
        scope: str | None = None,
    ) -> Generation:
        """Begin a generation of `num_tokens` tokens, which shares KV with sessions of the same scope, if it has one."""
        generation = self.sessions[session] = Generation(list(prompt), num_tokens)
        cached = []
        for engine in self.engines:
            spec = SessionSpec(
                session=session,
                span="span",
                num_prompt_tokens=len(prompt),
                max_total_tokens=len(prompt) + num_tokens,
                sampling=(sampling or SamplingParams()) if engine is self.engines[-1] else None,
                prompt_token_ids=tuple(prompt),
                block_hashes=() if scope is None else shareable_hashes(prompt),
                scope=scope or "",
            )
            cached.append(await engine.open(spec))
        generation.num_cached = min(cached)
        self.feed(session, prompt[generation.num_cached :], generation.num_cached)
        return generation

    async def close(self, session: int) -> None:
        """End a generation; its KV stays known by its tokens."""
        generation = self.sessions[session]
        hashes = block_hashes(generation.prompt + generation.tokens)
        for engine in self.engines:
            await engine.close(session, hashes)

    def feed(self, session: int, token_ids: Sequence[int], position: int, epoch: int = 0) -> None:
        """Give the head token ids; what is on its way of an older epoch is dropped where it comes in."""
        self.sessions[session].epoch = epoch
        rows = Rows(session=session, epoch=epoch, position=position, count=len(token_ids))
        self.engines[0].submit(Input(rows=rows, data=torch.tensor(token_ids)))

    async def wait(self, generation: Generation) -> list[int]:
        """The generation's tokens, all of them."""
        async with asyncio.timeout(DEADLINE_S):
            await generation.done.wait()
        if generation.error:
            raise generation.error
        return generation.tokens

    def _handler(self, stage: int) -> Callable[[StepOutput], None]:
        def handle(output: StepOutput) -> None:
            self.step_sizes[stage].append(sum(rows.count for rows in output.rows))
            for rows, error in output.failed:
                self.sessions[rows.session].error = error
                self.sessions[rows.session].done.set()
            if output.hidden is None:
                for sampled in output.sampled:
                    self._take(sampled)
                return
            pieces = torch.split(output.hidden, [rows.count for rows in output.rows])
            for rows, hidden in zip(output.rows, pieces, strict=True):
                if rows.epoch == self.sessions[rows.session].epoch:
                    self.engines[stage + 1].submit(Input(rows=rows, data=hidden))

        return handle

    def _take(self, sampled: Sampled) -> None:
        generation = self.sessions[sampled.session]
        if sampled.epoch != generation.epoch:
            return
        generation.sampled[sampled.index :] = [sampled]
        generation.changed.set()
        if sampled.finish:
            generation.done.set()
        else:
            position = len(generation.prompt) + sampled.index
            self.feed(sampled.session, [sampled.token_id], position, sampled.epoch)
