"""Runs steps over KV pages: decode steps by graphs, all others as they are.

A graph holds addresses: of weights, of pages, of its buffers and of what its kernels work in. All of these are held
here or by what is held here, for as long as the graphs are: they go together when the span is removed.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from osai.node.engine.attention import Binding
from osai.node.engine.block_table import BlockTable
from osai.node.engine.cuda_backends import backends_for
from osai.node.engine.cuda_cache import PagedStepCache, run_buffers, run_paged
from osai.node.engine.cuda_capture import Capture
from osai.node.engine.cuda_copies import Copies
from osai.node.engine.cuda_graphs import GraphedSteps, StepBuffers
from osai.node.engine.cuda_pages import PagedPlan, PagedRows
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_plan import window_blocks
from osai.node.engine.layout import Part
from osai.node.engine.span_model import SpanModel
from osai.node.engine.windows import Window


class PagedRunner:
    """See StepRunner. Block tables lie on the host.

    Args:
        model: the span; its layers cache keys and values as attention uses them.
        binding: of its attention.
        cache: whose pages are read and written.
        capture: captures decode steps.
        copies: to and from the device.
        max_blocks: of a session's longest context.

    Attributes:
        copies: see StepRunner.
        graphs: the decode steps that are captured.
    """

    def __init__(
        self,
        model: SpanModel,
        binding: Binding,
        cache: KVCache,
        capture: Capture,
        copies: Copies,
        max_blocks: int,
    ) -> None:
        self.copies = copies
        self._model, self._binding, self._windows = model, binding, cache.windows
        self._size, self._own_blocks = cache.block_size, (cache.null_block, cache.scratch_block)
        layers = [cache.pages(layer) for layer in range(len(model.layers))]
        paged = self._paged = PagedStepCache(layers, cache.block_size, backends_for(model.device))
        self.graphs = GraphedSteps(
            lambda buffers: run_buffers(model.forward, paged, buffers),
            _BufferMaker(model, cache),
            lambda buffers: paged.prepare(buffers.plans),
            capture,
            max_blocks,
        )

    def run(
        self,
        parts: Sequence[Part],
        pieces: Sequence[torch.Tensor],
        logits_of: Sequence[int] = (),
        *,
        is_watched: bool = False,
    ) -> torch.Tensor:
        """See StepRunner."""
        by_group = [
            [paged_rows(part, part.tables[group], window, self._size) for part in parts]
            for group, window in enumerate(self._windows)
        ]
        with _current(self._model.device):
            data = self.copies.to_device(pieces)
            self._binding.cache = self._paged
            try:
                out = None if is_watched else self.graphs.step(data, by_group)  # a replay calls no hook
                return self._run(data, by_group, logits_of) if out is None else self._kept(out, logits_of)
            finally:
                self._binding.cache = None

    def _run(
        self, data: torch.Tensor, by_group: Sequence[Sequence[PagedRows]], logits_of: Sequence[int]
    ) -> torch.Tensor:
        device = self._model.device
        plans = [PagedPlan.of(parts, self._size, *self._own_blocks, device) for parts in by_group]
        self._paged.prepare(plans)
        kept = torch.tensor(logits_of, dtype=torch.int64, device=device)
        return run_paged(self._model.forward, self._paged, data[None], plans, kept)

    def _kept(self, out: torch.Tensor, logits_of: Sequence[int]) -> torch.Tensor:
        """The rows that are wanted of a graph's, which are all."""
        if not self._model.is_tail or len(logits_of) == len(out):
            return out
        return out[torch.tensor(logits_of, dtype=torch.int64, device=out.device)]


class _BufferMaker:
    """Makes the buffers of a bucket of decode steps."""

    def __init__(self, model: SpanModel, cache: KVCache) -> None:
        self._device = model.device
        self._row = () if model.is_head else (model.hidden_size,)
        self._dtype = torch.int64 if model.is_head else model.dtype
        self._windows, self._size = cache.windows, cache.block_size
        self._own_blocks = (cache.null_block, cache.scratch_block)

    def __call__(self, batch: int, num_blocks: int) -> StepBuffers:
        data = torch.zeros(1, batch, *self._row, dtype=self._dtype, device=self._device)
        plans = []
        for window in self._windows:
            most = num_blocks if window.kind == "full" else min(num_blocks, window_blocks(window, self._size))
            plans.append(PagedPlan.fixed(batch, most, self._size, *self._own_blocks, self._device))
        return StepBuffers(data, plans)


def paged_rows(part: Part, table: BlockTable, window: Window, block_size: int) -> PagedRows:
    """A part in the pages of one group of layers: the blocks that hold what its rows see.

    Args:
        part: the rows.
        table: of their session, in the group.
        window: what the group keeps.
        block_size: tokens in a block.
    """
    first = max(table.first_block, window.first_key(part.position) // block_size)
    end = (part.end - 1) // block_size + 1
    blocks = table.blocks[first - table.first_block : end - table.first_block]
    return PagedRows(blocks=blocks, position=part.position, count=part.count, first_block=first)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one, on which kernels are launched and events recorded."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
