"""One forward of a span over rows of any number of sessions."""

from collections.abc import Sequence

import torch

from osai.node.engine.attention import Binding
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.layout import Part, StepLayout
from osai.node.engine.span_model import SpanModel


def run_packed_step(
    span: SpanModel,
    binding: Binding,
    cache: KVCache,
    parts: Sequence[Part],
    data: torch.Tensor,
    logits_of: Sequence[int] = (),
) -> torch.Tensor:
    """Run a span once over packed rows and store their keys and values.

    Args:
        span: what runs.
        binding: its attention's, as `install` gave it.
        cache: where keys and values are.
        parts: whose rows, in packed order, those of one row first.
        data: int64 [num_tokens] token ids into the head, else [num_tokens, hidden_size].
        logits_of: the packed rows whose logits the tail is to give.

    Returns:
        [len(logits_of), vocab_size] from the tail, else [num_tokens, hidden_size].
    """
    layout = StepLayout(parts, null_slot=cache.null_slot, device=span.device)
    kept = torch.tensor(logits_of, dtype=torch.int64, device=span.device)
    binding.cache = cache
    try:
        with torch.inference_mode(), cache.step(layout):
            return span.forward(data[None].to(span.device), cache, layout.positions[None], kept)
    finally:
        binding.cache = None
