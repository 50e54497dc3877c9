"""Checks of what comes from a peer, before it gets near the model."""

import torch

from osai.core.errors import BadFrameError, NotFiniteError
from osai.node.engine.api import Input
from osai.node.engine.span_model import SpanModel


def check_data(inp: Input, span: SpanModel) -> None:
    """Refuse data that the span can't run.

    Raises:
        BadFrameError: if shape or dtype are wrong, or a token id is not in the vocabulary.
        NotFiniteError: if a hidden state is NaN or infinite (B4).
    """
    data, rows = inp.data, inp.rows
    dtype = torch.int64 if span.is_head else span.dtype
    shape = (rows.count,) if span.is_head else (rows.count, span.hidden_size)
    if data.dtype != dtype or tuple(data.shape) != shape or data.device.type != "cpu":
        raise BadFrameError(
            f"session {rows.session}: {rows.count} rows must come as {dtype} {list(shape)}, "
            f"not as {data.dtype} {list(data.shape)} on {data.device.type}"
        )
    low, high = (bound.item() for bound in torch.aminmax(data))  # NaN if any value is
    if span.is_head:
        if low < 0 or high >= span.vocab_size:
            raise BadFrameError(
                f"session {rows.session}: token ids {low} to {high}, of a vocabulary of {span.vocab_size}"
            )
    elif not (-torch.inf < low and high < torch.inf):
        raise NotFiniteError(f"session {rows.session}: hidden states at position {rows.position} are not finite")
