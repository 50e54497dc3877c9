"""Attention over KV pages on a GPU: which kernels, and how they are called.

- `flashinfer`: FlashInfer's kernels read the pages where they lie, of any size, with soft caps and sliding windows.
- `varlen`: torch's own flash attention. It reads pages in place if they are of 256 tokens; else the keys of a step are
  gathered first, layer by layer, which costs a copy of them but no padding of the arithmetic.
- `gathered`: scaled dot products over gathered keys with a mask. Any dtype, window, soft cap and sinks.

flash-attn 2 would want pages of 256 tokens, FlexAttention a compiler and masks in blocks of 128: neither fits pages
of 16.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

import torch

from osai.node.engine.attention import How, attend
from osai.node.engine.cuda_pages import PagedPlan
from osai.node.engine.windows import Window

BackendName: TypeAlias = Literal["flashinfer", "varlen", "gathered"]
_MAX_GATHERED_KEYS = 1 << 16  # in one call, padding among them: 256 MiB of keys and values of 8 heads of 128 in bf16
_FLASH_PAGE = 256  # torch's flash attention reads pages of multiples of this many tokens


class PagedAttention(Protocol):
    """One way to attend over pages.

    Attributes:
        name: which.
        capturable: whether a decode step by it can be captured in a graph.
    """

    name: BackendName
    capturable: bool

    def prepare(self, plan: PagedPlan) -> None:
        """Work out on the host, before a step or a graph's replay, what the kernels need besides the plan's tensors."""
        ...

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: PagedPlan, window: Window, how: How
    ) -> torch.Tensor:
        """Attention of a packed step.

        Args:
            query: [num_rows, heads, key_dim].
            keys: [num_blocks, block_size, kv_heads, key_dim], all pages of the layer.
            values: [num_blocks, block_size, kv_heads, value_dim].
            plan: of the step, for the layer's group.
            window: of the layer.
            how: what the family does to scores.

        Returns:
            [num_rows, heads, value_dim].
        """
        ...


class GatheredAttention:
    """Scaled dot products over gathered keys; on the CPU too."""

    name: BackendName = "gathered"
    capturable = True

    def prepare(self, plan: PagedPlan) -> None:
        """Nothing: the plan's tensors are all it needs."""

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: PagedPlan, window: Window, how: How
    ) -> torch.Tensor:
        """See PagedAttention. All parts in one call if each has one row, else one call a part."""
        num_gathered = plan.sizes.num_parts * plan.max_keys
        if plan.is_decode and (plan.is_fixed or num_gathered <= max(_MAX_GATHERED_KEYS, sum(plan.key_counts))):
            return self._attend_parts(query[:, :, None], keys, values, plan, slice(None), plan.max_keys, window, how)
        outs, row = [], 0
        for i, count in enumerate(plan.counts):
            queries = query[None, row : row + count].transpose(1, 2)  # [1, heads, count, dim]
            out = self._attend_parts(queries, keys, values, plan, slice(i, i + 1), plan.key_counts[i], window, how)
            outs.append(out)
            row += count
        return torch.cat(outs)

    @staticmethod
    def _attend_parts(
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        plan: PagedPlan,
        parts: slice,
        max_keys: int,
        window: Window,
        how: How,
    ) -> torch.Tensor:
        """Query [num_parts, heads, count, dim] to [num_parts * count, heads, value_dim]."""
        slots = plan.key_slots[parts, :max_keys]  # [num_parts, max_keys]
        k, v = (pages.flatten(0, 1)[slots].transpose(1, 2) for pages in (keys, values))
        places = torch.arange(max_keys, device=slots.device)
        num_keys = plan.num_keys[parts].long()[:, None]  # [num_parts, 1]
        of_keys = plan.first_positions[parts, None] + places  # [num_parts, max_keys], positions
        last = plan.first_positions[parts, None] + num_keys - 1  # [num_parts, 1]
        count = query.shape[2]
        of_queries = last + torch.arange(1 - count, 1, device=slots.device)  # [num_parts, count]
        seen = _seen(window, of_queries[:, :, None], of_keys[:, None]) & (places < num_keys)[:, None]
        out = attend(query, k, v, seen[:, None], how)  # [num_parts, heads, count, value_dim]
        return out.transpose(1, 2).flatten(0, 1)


VarlenKernel: TypeAlias = Callable[..., torch.Tensor]


class VarlenAttention:
    """torch.nn.attention.varlen over gathered keys, or over pages that are large enough.

    Args:
        kernel: `torch.nn.attention.varlen.varlen_attn`, or what does the same.
    """

    name: BackendName = "varlen"
    capturable = True

    def __init__(self, kernel: VarlenKernel) -> None:
        self._kernel = kernel

    def prepare(self, plan: PagedPlan) -> None:
        """Nothing: the plan's tensors are all it needs."""

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: PagedPlan, window: Window, how: How
    ) -> torch.Tensor:
        """See PagedAttention."""
        more: dict[str, Any] = {}
        if plan.block_size % _FLASH_PAGE == 0:
            more = {"seqused_k": plan.num_keys, "block_table": plan.block_tables}
        else:  # [sum of key_spans, kv_heads, dim]
            keys, values = (pages.flatten(0, 1)[plan.packed_key_slots] for pages in (keys, values))
            more = {"seqused_k": plan.num_keys} if plan.is_fixed else {}
        return self._kernel(
            query,
            keys,
            values,
            plan.query_starts,
            plan.key_starts,
            max(plan.counts),
            plan.max_keys,
            scale=how.scaling,
            window_size=(window.size - 1, 0) if window.kind == "sliding" else (-1, 0),
            enable_gqa=query.shape[1] != keys.shape[-2],
            **more,
        )


def _seen(window: Window, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Bool, broadcast: which query position sees which key position. `Window.mask` over batches."""
    seen = keys <= queries
    if window.kind == "sliding":
        seen = seen & (keys > queries - window.size)
    elif window.kind == "chunked":
        seen = seen & (keys // window.size == queries // window.size)
    return seen
