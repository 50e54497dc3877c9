"""A span with its KV cache, as the engine thread runs it."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from statistics import median
from typing import Self

import torch

from osai.core.errors import InternalError, OsaiError
from osai.node.engine.api import Rows, Sampled
from osai.node.engine.attention import install
from osai.node.engine.block_table import BlockTable
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_ledger import KVLedger
from osai.node.engine.kv_plan import plan_kv
from osai.node.engine.kv_shapes import measure_shapes
from osai.node.engine.kv_span import SpanKV, StepKV
from osai.node.engine.layout import Part
from osai.node.engine.options import SpanInfo
from osai.node.engine.session import StepPart
from osai.node.engine.span_model import SpanModel
from osai.node.engine.step_runner import StepRunner, make_runner, runner_kind, tables_device
from osai.node.engine.tail_step import TailStep, draw_tokens, plan_tail, pool_rows

_NUM_MEASURED_STEPS = 3  # the median of three leaves out one that was disturbed


@dataclass(slots=True)
class StepResult:
    """What a step gives, before it is known which sessions still want it.

    Attributes:
        hidden: [num_tokens, hidden_size] on the CPU; None from the tail.
        sampled: by place in the step's parts.
        failed: by place in the step's parts.
    """

    hidden: torch.Tensor | None
    sampled: dict[int, Sampled]
    failed: dict[int, OsaiError]


class HostedSpan:
    """Runs steps of one span. Only the engine thread calls it."""

    def __init__(
        self, model: SpanModel, runner: StepRunner, cache: KVCache, kv: SpanKV, kv_bytes_per_token: int
    ) -> None:
        self.model, self.cache, self.kv, self.kv_bytes_per_token = model, cache, kv, kv_bytes_per_token
        self._runner = runner

    @classmethod
    def create(cls, model: SpanModel, kv_budget_bytes: int, block_size: int, max_step_rows: int = 512) -> Self:
        """Measure what the layers cache of a token, and allocate as many KV blocks as the budget pays for.

        Args:
            model: the span.
            kv_budget_bytes: what its KV may take.
            block_size: tokens in a block.
            max_step_rows: rows of a step at most, those of sessions that bring one row left out.

        Raises:
            UnknownModelError: if the family's attention is of a kind that is not served.
            ResourceExhaustedError: if the budget is too small, or the memory can't be had.
        """
        binding = install(model)
        shapes = measure_shapes(model, binding)
        plan, num_blocks = plan_kv(shapes, block_size, kv_budget_bytes, max_step_rows)
        cache = KVCache(shapes, num_blocks, block_size, model.device, plan)
        ledger = KVLedger(plan.windows, num_blocks, block_size, max_step_rows)
        max_context = int(getattr(model.config, "max_position_embeddings", 0))
        kind = runner_kind(model.device.type, shapes)
        kv = SpanKV(ledger, cache.scratch_block, max_context, tables_device(kind, model.device))
        runner = make_runner(kind, model, binding, cache, -(-kv.num_tokens // block_size))
        return cls(model, runner, cache, kv, sum(shape.token_bytes for shape in shapes))

    def info(self, key: str) -> SpanInfo:
        """What to say of the span."""
        return SpanInfo(
            key=key,
            layers=self.model.layers,
            num_kv_tokens=self.kv.num_tokens,
            block_size=self.cache.block_size,
            kv_bytes_per_token=self.kv_bytes_per_token,
            weight_bytes=self.model.weight_bytes,
        )

    def run(self, parts: list[StepPart]) -> StepResult:
        """Run one step. Returns when the device is done with it."""
        step = self.kv.begin_step(parts)
        failed: Collection[int] = range(len(parts))
        try:
            result = self._run(parts, step)
            failed = result.failed
        finally:
            self.kv.end_step(parts, failed)
        return result

    def _run(self, parts: list[StepPart], step: StepKV) -> StepResult:
        self.cache.copy_blocks(step.copies)
        rows = [part.chunk.rows for part in parts]
        tail = plan_tail(parts)
        data = [piece for part in parts for piece in part.chunk.data]
        layout = [Part(t[0], r.position, r.count, t[1:]) for t, r in zip(step.tables, rows, strict=True)]
        try:
            if self.model.is_tail:
                return StepResult(None, self._end(parts, tail, layout, data), tail.failed)
            hidden = self._runner.copies.to_host(self._runner.run(layout, data))
            return StepResult(hidden, {}, _not_finite(hidden, rows))
        finally:
            self._runner.copies.wait()

    def _end(
        self, parts: list[StepPart], tail: TailStep, layout: list[Part], data: list[torch.Tensor]
    ) -> dict[int, Sampled]:
        """The tail's step: tokens and vectors by place in the parts."""
        if not tail.pooled:
            return draw_tokens(parts, tail, self._runner.run(layout, data, tail.logits_of))
        with self.model.watched() as normed:
            logits = self._runner.run(layout, data, tail.logits_of, is_watched=True)
        return draw_tokens(parts, tail, logits) | pool_rows(parts, tail, normed[-1])

    def measure(self) -> float:
        """Seconds of a decode step of one session with a block of context, median of a few."""
        span, size = self.model, self.cache.block_size
        table = BlockTable([self.cache.scratch_block], size, self.kv.device)
        more_tables = (table,) * (self.cache.num_groups - 1)
        row = torch.zeros(1, dtype=torch.int64) if span.is_head else torch.zeros(1, span.hidden_size, dtype=span.dtype)
        self._runner.run([Part(table, 0, size - 1, more_tables)], [row] * (size - 1))
        times = []
        for _ in range(_NUM_MEASURED_STEPS):
            self._runner.copies.wait()
            start = time.perf_counter()
            out = self._runner.run([Part(table, size - 1, 1, more_tables)], [row], [0])
            self._runner.copies.to_host(out)
            times.append(time.perf_counter() - start)
        return median(times)


def _not_finite(hidden: torch.Tensor, rows: list[Rows]) -> dict[int, OsaiError]:
    """Sessions whose hidden states no next stage would take."""
    finite = hidden.isfinite().all(dim=1)
    if finite.all():
        return {}
    ends = torch.tensor([r.count for r in rows]).cumsum(0).tolist()
    return {
        i: InternalError(f"hidden states of session {r.session} are not finite after position {r.position}")
        for i, (r, end) in enumerate(zip(rows, ends, strict=True))
        if not finite[end - r.count : end].all()
    }
