"""One engine and what came out of it, for tests."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import torch

from families.reference import lazy_tensors, read_config
from osai.core.errors import OsaiError
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Input, Rows, Sampled, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.engine.options import EngineOptions
from osai.node.engine.span_model import SpanModel, load_span

WHOLE, MIDDLE, END = LayerRange(0, 6), LayerRange(1, 4), LayerRange(4, 6)
PROMPT = [5, 17, 300, 42, 8, 99, 7, 250]
LATER = [11, 12, 13]
KV_BUDGET_BYTES = 2_000_000
DEADLINE_S = 30.0


def load(path: Path, layers: LayerRange, dtype: torch.dtype = torch.float32) -> SpanModel:
    return load_span(read_config(path), lazy_tensors(path), layers, dtype=dtype)


class Harness:
    """An engine on the running loop."""

    def __init__(self, options: EngineOptions | None = None) -> None:
        self.outputs: list[StepOutput] = []
        self.failure: asyncio.Future[OsaiError] = asyncio.get_running_loop().create_future()
        self._arrived = asyncio.Event()
        self.engine = Engine(asyncio.get_running_loop(), self._on_output, self.failure.set_result, options)

    def _on_output(self, output: StepOutput) -> None:
        self.outputs.append(output)
        self._arrived.set()

    async def output(self, number: int) -> StepOutput:
        """The engine's output of that number, once it is there."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.outputs) <= number:
                self._arrived.clear()
                await self._arrived.wait()
        return self.outputs[number]

    async def open(
        self,
        session: int,
        num_prompt_tokens: int = 8,
        max_total_tokens: int = 40,
        sampling: SamplingParams | None = None,
        *,
        span: str = "span",
        stop_token_ids: frozenset[int] = frozenset(),
        prompt_token_ids: Sequence[int] = (),
    ) -> None:
        await self.engine.open(
            SessionSpec(
                session=session,
                span=span,
                num_prompt_tokens=num_prompt_tokens,
                max_total_tokens=max_total_tokens,
                sampling=sampling or SamplingParams(),
                stop_token_ids=stop_token_ids,
                prompt_token_ids=tuple(prompt_token_ids),
            )
        )

    def submit(self, session: int, position: int, data: Sequence[int] | torch.Tensor, epoch: int = 0) -> None:
        tensor = data if isinstance(data, torch.Tensor) else torch.tensor(data)
        rows = Rows(session=session, epoch=epoch, position=position, count=len(tensor))
        self.engine.submit(Input(rows=rows, data=tensor))

    async def generate(self, session: int, tokens: Sequence[int], position: int = 0, epoch: int = 0) -> list[Sampled]:
        """Feed tokens, then every token drawn, until the generation is finished."""
        sampled: list[Sampled] = []
        self.submit(session, position, tokens, epoch)
        position += len(tokens)
        number = len(self.outputs)
        while not sampled or not sampled[-1].finish:
            output = await self.output(number)
            number += 1
            for rows, error in output.failed:
                if rows.session == session:
                    raise error
            for drawn in output.sampled:
                if drawn.session == session:
                    sampled.append(drawn)
                    if not drawn.finish:
                        self.submit(session, position, [drawn.token_id], epoch)
                        position += 1
        return sampled


@asynccontextmanager
async def running(
    model: SpanModel, options: EngineOptions | None = None, kv_budget_bytes: int = KV_BUDGET_BYTES
) -> AsyncIterator[Harness]:
    """A started engine that hosts `model` under the key "span"."""
    harness = Harness(options)
    harness.engine.start()
    try:
        await harness.engine.add_span("span", model, kv_budget_bytes)
        yield harness
    finally:
        await harness.engine.stop()


class Gate:
    """Holds a span's steps until they are let through."""

    def __init__(self, model: SpanModel) -> None:
        self.entered, self._opened = threading.Event(), threading.Event()
        self._hook = model.decoder.register_forward_pre_hook(self._wait)

    def _wait(self, *_: object) -> None:
        self.entered.set()
        if not self._opened.wait(DEADLINE_S):
            raise TimeoutError("nobody opened the gate")

    async def reached(self) -> None:
        """Return once a step is held."""
        assert await asyncio.to_thread(self.entered.wait, DEADLINE_S)

    def open(self) -> None:
        """Let the step that is held through, and all that come."""
        self._hook.remove()
        self._opened.set()
