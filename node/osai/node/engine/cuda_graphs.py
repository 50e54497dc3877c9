"""Decode steps captured in CUDA graphs, one for each bucket of sessions and of blocks.

A decode step of a small span is bound by launching its kernels one by one; a graph launches them all at once. Steps
that do not fill a bucket are padded with rows that read and write the scratch block.

Beside the pages, graphs take: what the largest captured step works with, once, since all share a pool; one output for
each number of sessions, 255 rows of hidden states (4 MiB at a hidden size of 8192 in bf16) or of logits (62 MiB at a
vocabulary of 128 Ki) if all are in use; and each graph its own nodes and inputs, a few hundred KiB, with FlashInfer
8 MiB for each kind of layer. Captures take cuBLAS one more workspace, of 8 to 32 MiB.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from osai.node.engine.cuda_capture import Capture, Graph
from osai.node.engine.cuda_pages import PagedPlan, PagedRows

_log = logging.getLogger(__name__)

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)  # sessions; a step of more runs as it is, bound by its kernels' own time
_MIN_BLOCKS = 16  # the smallest bucket of blocks: 256 tokens in blocks of 16
# Blocks of a bucket, sessions times blocks of one: 65536 tokens in blocks of 16. Gathered, as some layers must, their
# keys and values take 256 MiB for 8 heads of 128 in bf16; and a step that reads so much is not bound by launching.
MAX_BUCKET_BLOCKS = 4096
MAX_GRAPHS = 64  # in use they are some ten; this bounds what each keeps for as long as the span lives


class StepBuffers:
    """The input tensors of one bucket.

    Attributes:
        data: int64 [1, batch] token ids, or [1, batch, hidden_size].
        plans: fixed plans, one for each group of layers.
        kept: int64 [batch], all rows: a tail gives every row's logits.
    """

    def __init__(self, data: torch.Tensor, plans: Sequence[PagedPlan]) -> None:
        self.data, self.plans = data, tuple(plans)
        self.kept = torch.arange(data.shape[1], device=data.device)

    @property
    def positions(self) -> torch.Tensor:
        """int64 [batch], of each row in its session."""
        positions: torch.Tensor = self.plans[0].positions
        return positions

    def fill(self, data: torch.Tensor, parts: Sequence[Sequence[PagedRows]]) -> None:
        """Write a step: data [num_rows] or [num_rows, hidden_size], and each group's parts, of one row each."""
        self.data[0, : len(data)].copy_(data, non_blocking=True)
        for plan, of_group in zip(self.plans, parts, strict=True):
            plan.fill(of_group)


@dataclass(frozen=True, slots=True)
class _Captured:
    buffers: StepBuffers
    graph: Graph
    out: torch.Tensor


class GraphedSteps:
    """Runs decode steps of one span by graphs, captured when their bucket is first needed.

    Args:
        run: one forward over the buffers, which gives [batch, ...]; it must call nothing but the device.
        make_buffers: buffers for a number of sessions and of blocks a session.
        prepare: told of the buffers before each run or replay, on the host.
        capture: captures a run after warming up; `CudaCapture` on a GPU.
        max_blocks: of a session's longest context.
    """

    def __init__(
        self,
        run: Callable[[StepBuffers], torch.Tensor],
        make_buffers: Callable[[int, int], StepBuffers],
        prepare: Callable[[StepBuffers], None],
        capture: Capture,
        max_blocks: int,
    ) -> None:
        self._run, self._make_buffers, self._prepare, self._capture = run, make_buffers, prepare, capture
        self._max_blocks = max_blocks
        self._captured: dict[tuple[int, int], _Captured] = {}
        self._outs: dict[int, torch.Tensor] = {}  # by sessions: graphs that kept their own would add up
        self.failure: str | None = None

    @property
    def num_graphs(self) -> int:
        """Captured so far."""
        return len(self._captured)

    def step(self, data: torch.Tensor, parts: Sequence[Sequence[PagedRows]]) -> torch.Tensor | None:
        """Run one step.

        Args:
            data: [num_rows] token ids, or [num_rows, hidden_size]; one row a session.
            parts: for each group of layers, each session's row.

        Returns:
            [num_rows, ...], valid until the next step; None if the step has to run without a graph.
        """
        bucket = bucket_of([part.count for part in parts[0]], _most_blocks(parts), self._max_blocks)
        if bucket is None or self.failure is not None:
            return None
        if bucket not in self._captured and not self._add(bucket, data, parts):
            return None
        captured = self._captured[bucket]
        captured.buffers.fill(data, parts)
        self._prepare(captured.buffers)
        captured.graph.replay()
        return captured.out[: len(data)]

    def _add(self, bucket: tuple[int, int], data: torch.Tensor, parts: Sequence[Sequence[PagedRows]]) -> bool:
        """Capture a bucket's step; whether that worked. Its warm-up runs the very step that is wanted."""
        if len(self._captured) >= MAX_GRAPHS:
            return False
        try:
            buffers = self._make_buffers(*bucket)
            buffers.fill(data, parts)
            self._prepare(buffers)
            graph, out = self._capture(lambda: self._fresh(buffers))
        except RuntimeError as e:  # a family whose layers ask the device for numbers, or memory that ran out
            self.failure = str(e)
            _log.warning("decode steps run without CUDA graphs, which could not be captured: %s", e)
            return False
        self._captured[bucket] = _Captured(buffers, graph, out)
        return True

    def _fresh(self, buffers: StepBuffers) -> torch.Tensor:
        """Run with nothing left over from before: the graph must work out all that depends on its inputs."""
        for plan in buffers.plans:
            plan.begin()
        out = self._run(buffers)
        if len(out) not in self._outs:  # in the warm-up, so outside the pool, where it would be overwritten
            self._outs[len(out)] = torch.empty_like(out)
        with torch.no_grad():
            return self._outs[len(out)].copy_(out)


def bucket_of(counts: Sequence[int], num_blocks: int, max_blocks: int) -> tuple[int, int] | None:
    """(sessions, blocks) of the bucket that a step goes into; None if it has none.

    Args:
        counts: rows of each part.
        num_blocks: of a part at most.
        max_blocks: that a part can ever have.
    """
    batch = next((size for size in BATCH_BUCKETS if size >= len(counts)), None)
    if batch is None or not counts or max(counts) > 1 or num_blocks > max_blocks:
        return None
    blocks = _MIN_BLOCKS
    while blocks < num_blocks:
        blocks *= 2
    blocks = min(blocks, max_blocks)
    return (batch, blocks) if batch * blocks <= MAX_BUCKET_BLOCKS else None


def _most_blocks(parts: Sequence[Sequence[PagedRows]]) -> int:
    return max((len(part.blocks) for group in parts for part in group), default=0)
