"""Paged keys and values of a span's layers, and the Cache look-alike that transformers' layers call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from osai.core.errors import InternalError, ResourceExhaustedError
from osai.node.engine.attention import How, attend
from osai.node.engine.cpu_attention import attend_rows
from osai.node.engine.fused_layer import LayerRows
from osai.node.engine.kernels.library import load_kernels
from osai.node.engine.kv_pages import PagedLayer
from osai.node.engine.kv_plan import OWN_BLOCKS, KVPlan, LayerShape, full_plan
from osai.node.engine.kv_reads import GroupLayout, Read
from osai.node.engine.layout import StepLayout

__all__ = ["KVCache", "LayerShape"]


class KVCache:
    """Keys and values of every layer of a span, allocated once.

    There are `num_blocks` blocks for sessions, one that is all zeros and pads gathered keys, and one for measurements
    and rows that nobody wants. A row is only ever read by sessions that it belongs to.

    Args:
        shapes: what each layer caches.
        num_blocks: for sessions.
        block_size: tokens in a block.
        device: where it lies.
        plan: which layers share pages; None for one group of all.

    Raises:
        ResourceExhaustedError: if the memory can't be had.
    """

    is_compileable = False  # transformers asks

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        num_blocks: int,
        block_size: int,
        device: torch.device | str = "cpu",
        plan: KVPlan | None = None,
    ) -> None:
        plan = plan or full_plan(shapes)
        self.num_blocks, self.block_size, self.device = num_blocks, block_size, torch.device(device)
        self.null_block, self.scratch_block = num_blocks, num_blocks + 1
        self.num_groups, self.windows = len(plan.groups), plan.windows
        self._shapes, self._places = tuple(shapes), plan.places
        self._layout: StepLayout | None = None
        self._kernels = load_kernels() if self.device.type == "cpu" else None
        rows = (num_blocks + OWN_BLOCKS) * block_size
        try:  # each [rows, heads, dim]; zeros are written, so that the memory is there from now on
            self._keys = [torch.empty(rows, *s.key, dtype=s.dtype, device=device).zero_() for s in plan.stores]
            self._values = [torch.empty(rows, *s.value, dtype=s.dtype, device=device).zero_() for s in plan.stores]
        except (RuntimeError, MemoryError) as e:  # torch's out-of-memory errors are RuntimeErrors
            total = plan.token_bytes * rows
            raise ResourceExhaustedError(f"can't allocate {total} bytes of KV cache: lower its budget ({e})") from e

    @property
    def null_slot(self) -> int:
        """A row of zeros that nobody writes."""
        return self.null_block * self.block_size

    @contextmanager
    def step(self, layout: StepLayout) -> Iterator[None]:
        """Serve one packed step."""
        self._layout = layout
        try:
            yield
        finally:
            self._layout = None

    @property
    def layout(self) -> StepLayout:
        """Of the step in hand."""
        if self._layout is None:
            raise InternalError("the KV cache was used outside a step")
        return self._layout

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the packed rows' keys and values, each [1, heads, num_tokens, dim].

        Returns:
            The two as they came, or, where the layer expands them, each session's whole past, packed:
            [1, heads, sum of the parts' ends, dim].
        """
        layout, keys, values = self.storage(layer_idx)
        keys.index_copy_(0, layout.slots, key[0].transpose(0, 1))
        values.index_copy_(0, layout.slots, value[0].transpose(0, 1))
        if not self._shapes[layer_idx].expands:
            return key, value
        past = layout.past_slots
        return keys[past].transpose(0, 1)[None], values[past].transpose(0, 1)[None]

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
        """Attention of a packed row: [1, heads, num_tokens, query_dim] to [1, heads, num_tokens, value_dim]."""
        shape = self._shapes[layer]
        layout, keys, values = self.storage(layer)
        if shape.expands:
            keys, values = (t[0].transpose(0, 1).contiguous() for t in (key, value))
        if self._kernels is not None and self._kernels.can(query.dtype):
            seen = layout.seen(shape.window, from_past=shape.expands)
            return attend_rows(self._kernels, query, keys, values, seen, how)
        reads = layout.reads(shape.window, from_past=shape.expands)
        outs = [_attend_read(read, query, keys, values, how) for read in reads]
        return outs[0] if len(outs) == 1 else torch.cat(outs, 2)

    def rows(self, layer: int) -> LayerRows | None:
        """Where the rows of the step in hand lie in a layer's pages, if osai's kernels may read and write these."""
        shape = self._shapes[layer]
        if self._kernels is None or shape.expands or not self._kernels.can(shape.dtype):
            return None
        layout, keys, values = self.storage(layer)
        return LayerRows(layout.slots, layout.seen(shape.window), keys, values)

    def storage(self, layer: int) -> tuple[GroupLayout, torch.Tensor, torch.Tensor]:
        """Where the step in hand lies in a layer's pages, and its keys and values, each [rows, heads, dim]."""
        group, place = self._places[layer]
        return self.layout.group(group), self._keys[place], self._values[place]

    def pages(self, layer: int) -> PagedLayer:
        """A layer's pages, for kernels that read them where they lie."""
        group, place = self._places[layer]
        window = self._shapes[layer].window
        return PagedLayer(group=group, keys=self._keys[place], values=self._values[place], window=window)

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (from, to), one after the other."""
        size = self.block_size
        for source, target in copies:
            for store in (*self._keys, *self._values):
                store[target * size : (target + 1) * size] = store[source * size : (source + 1) * size]

    def get_seq_length(self, _layer_idx: int = 0) -> torch.Tensor:
        """int64 [num_tokens], what to add to a row's place in the packed row to get its position.

        Llama 4 does that addition; a whole model's cache gives a number here.
        """
        return self.layout.positions - torch.arange(self.layout.num_tokens, device=self.device)

    get_query_offset = get_seq_length

    def get_mask_sizes(self, _query_length: int, _layer_idx: int = 0) -> tuple[int, int]:
        """Number of keys and position of the first: only asked for by models whose masks nobody uses here."""
        return self.layout.longest, 0


def _attend_read(read: Read, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, how: How) -> torch.Tensor:
    """One attention call: query [1, heads, num_tokens, dim], keys and values [rows, kv_heads, dim]."""
    q = query[:, :, read.rows]
    k, v = (t[read.keys].view(read.num_parts, -1, *t.shape[1:]).transpose(1, 2) for t in (keys, values))
    if read.num_parts == 1:
        return attend(q, k, v, read.mask, how, is_causal=read.is_causal)
    q = q.transpose(0, 2)  # [num_parts, heads, 1, dim]
    return attend(q, k, v, read.mask, how).transpose(0, 2)
