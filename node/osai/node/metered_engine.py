"""The engine, with a meter that is told of what goes in and out."""

import asyncio
import time
from collections.abc import Callable, Sequence

from osai.core.errors import OsaiError
from osai.node.engine.api import Input, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.engine.options import EngineOptions, SpanInfo
from osai.node.engine.span_model import SpanModel
from osai.node.engine_meter import EngineMeter


class MeteredEngine(Engine):
    """See Engine.

    Args:
        loop: as of Engine; so are `on_output`, `on_failure` and `options`.
        meter: is told.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_output: Callable[[StepOutput], None],
        on_failure: Callable[[OsaiError], None],
        options: EngineOptions | None = None,
        *,
        meter: EngineMeter,
    ) -> None:
        def landed(output: StepOutput) -> None:
            now_s = time.monotonic()
            on_output(output)  # first: the next stage waits for it
            meter.stepped(output, now_s)

        super().__init__(loop, landed, on_failure, options)
        self._meter = meter

    async def add_span(self, key: str, span_model: SpanModel, kv_budget_bytes: int) -> SpanInfo:
        """As Engine's."""
        info = await super().add_span(key, span_model, kv_budget_bytes)
        self._meter.hosted(info)
        return info

    async def remove_span(self, key: str) -> None:
        """As Engine's."""
        self._meter.removed(key)
        await super().remove_span(key)

    async def open(self, spec: SessionSpec) -> int:
        """As Engine's."""
        num_cached = await super().open(spec)
        self._meter.opened(spec, num_cached)
        return num_cached

    def submit(self, inp: Input) -> None:
        """As Engine's."""
        super().submit(inp)
        self._meter.submitted(inp.rows, time.monotonic())

    def release(self, session: int, block_hashes: Sequence[bytes] = ()) -> None:
        """As Engine's."""
        self._meter.released(session)
        super().release(session, block_hashes)
