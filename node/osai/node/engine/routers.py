"""Routers that send a token to the same experts, with the same weights, whatever tokens run with it.

A router's product is small and is left to torch, which rounds one row otherwise than several. That decides between
experts that are as good as equal, and a token's logits change by far more than rounding: a generation would depend on
what else its nodes serve. In blocks of one size every row is computed alike. On a GPU routers are left as they are.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import pad

from osai.node.engine.text_model import TransformersModel

NUM_ROWS = 16  # of a block: few enough for a decode step, enough for a prefill
_SEED = 0


class InBlocks:
    """Calls `forward` with blocks of rows, the last one filled up with zeros.

    Args:
        forward: from rows [num_rows, in_features] to a tensor [num_rows, ...], or to several.
        in_features: of its rows.
        dtype: of its rows.
    """

    def __init__(self, forward: Callable[[torch.Tensor], Any], in_features: int, dtype: torch.dtype) -> None:
        self._forward = forward
        self._num_rows = NUM_ROWS if _is_alike(forward(_equal_rows(in_features, dtype))) else 1

    def __call__(self, hidden: torch.Tensor) -> Any:  # noqa: ANN401 - what `forward` gives
        """Of [..., in_features]; there is at least one row."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        filled = pad(rows, (0, 0, 0, -len(rows) % self._num_rows))
        outs = [self._forward(block) for block in torch.split(filled, self._num_rows)]
        if isinstance(outs[0], torch.Tensor):
            return torch.cat(outs)[: len(rows)]
        return tuple(torch.cat(parts)[: len(rows)] for parts in zip(*outs, strict=True))


def install_blocks(model: TransformersModel) -> int:
    """Let a model's routers on the CPU run in blocks; how many there are."""
    found = list(_routers(model))
    for router in found:
        router.forward = InBlocks(router.forward, router.weight.shape[1], router.weight.dtype)
    return len(found)


def _routers(model: TransformersModel) -> Iterator[TransformersModel]:
    """Modules that transformers calls routers and that hold one weight, [num_experts, hidden_size]."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if type(module).__name__.endswith("Router") and weight is not None and weight.dim() == 2:  # noqa: PLR2004
            yield module


def _equal_rows(in_features: int, dtype: torch.dtype) -> torch.Tensor:
    row = torch.randn(1, in_features, generator=torch.Generator().manual_seed(_SEED)).to(dtype)
    return row.repeat(NUM_ROWS, 1)


def _is_alike(out: Any) -> bool:  # noqa: ANN401 - as above
    """Whether equal rows gave equal results at every place of a block: a library may round its edges otherwise."""
    parts = (out,) if isinstance(out, torch.Tensor) else out
    return all(torch.equal(part, part[:1].expand_as(part)) for part in parts)
