"""Attention by osai's own kernel, which reads the pages where they lie."""

import torch

from osai.node.engine.attention import How
from osai.node.engine.kernels.library import Kernels
from osai.node.engine.kernels.structures import Attention
from osai.node.engine.kv_reads import SeenKeys

QUERIES_AT_ONCE = 4  # NUM_Q of attention.c


def attend_rows(
    kernels: Kernels, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: SeenKeys, how: How
) -> torch.Tensor:
    """Attention of a packed row's tokens, each over its own keys.

    Args:
        kernels: that take the dtype.
        query: [1, heads, num_tokens, dim].
        keys: [rows, kv_heads, dim], the pages.
        values: [rows, kv_heads, value_dim].
        seen: which of them each token sees.
        how: what the family does to the scores.

    Returns:
        [1, heads, num_tokens, value_dim], of which each token's heads lie together.
    """
    num_heads, num_tokens, dim = query.shape[1:]
    num_kv_heads, value_dim = values.shape[1:]
    rows = query[0].transpose(0, 1)  # [num_tokens, heads, dim]
    if rows.stride()[1:] != (dim, 1):
        rows = rows.contiguous()
    out = query.new_empty(num_tokens, num_heads, value_dim)
    scratch = torch.empty(kernels.num_threads * QUERIES_AT_ONCE * seen.max_count)
    sinks = None if how.sinks is None else how.sinks.float()
    args = Attention(
        rows.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr(),
        seen.slots.data_ptr(), seen.begins.data_ptr(), seen.ends.data_ptr(),
        None if sinks is None else sinks.data_ptr(), scratch.data_ptr(),
        num_tokens, num_heads, num_kv_heads, dim, value_dim, rows.stride(0), seen.max_count,
        how.scaling, how.softcap or 0.0, kernels.num_threads,
    )  # fmt: skip
    kernels.attend(query.dtype, args)
    return out.transpose(0, 1)[None]
