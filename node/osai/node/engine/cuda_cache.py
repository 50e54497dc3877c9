"""The Cache look-alike that transformers' layers call in a step over paged plans.

Nothing in it asks the device for numbers, so a decode step over fixed plans can be captured. It reads and writes the
same pages as `kv_cache`.
"""

from collections.abc import Callable, Sequence

import torch

from osai.core.errors import InternalError
from osai.node.engine.attention import How
from osai.node.engine.cuda_backends import PagedBackends
from osai.node.engine.cuda_graphs import StepBuffers
from osai.node.engine.cuda_pages import PagedPlan
from osai.node.engine.kv_pages import PagedLayer


class PagedStepCache:
    """Serves steps over plans.

    Layers that make keys and values of what is cached after `update`, as latent attention does, are not served.

    Args:
        layers: of the span.
        block_size: tokens in a block.
        backends: attend over the pages.
    """

    is_compileable = False  # transformers asks

    def __init__(self, layers: Sequence[PagedLayer], block_size: int, backends: PagedBackends) -> None:
        self._layers, self._block_size, self._backends = tuple(layers), block_size, backends
        self.plans: tuple[PagedPlan, ...] = ()

    def prepare(self, plans: Sequence[PagedPlan]) -> None:
        """Before a step over these plans, or the replay of its graph, on the host."""
        for plan in plans:
            self._backends.prepare(plan)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the packed rows' keys and values, each [1, heads, num_rows, dim]; gives them back."""
        layer = self._layers[layer_idx]
        slots = self._plan(layer.group).slots
        layer.keys.index_copy_(0, slots, key[0].transpose(0, 1))
        layer.values.index_copy_(0, slots, value[0].transpose(0, 1))
        return key, value

    def attend(
        self, layer: int, query: torch.Tensor, _key: torch.Tensor, _value: torch.Tensor, how: How
    ) -> torch.Tensor:
        """Attention of a packed row: [1, heads, num_rows, key_dim] to [1, heads, num_rows, value_dim]."""
        pages = self._layers[layer]
        keys, values = (t.view(-1, self._block_size, *t.shape[1:]) for t in (pages.keys, pages.values))
        rows = query[0].transpose(0, 1).contiguous()  # [num_rows, heads, dim]
        out = self._backends.attend(rows, keys, values, self._plan(pages.group), pages.window, how)
        return out.transpose(0, 1)[None]

    def get_seq_length(self, _layer_idx: int = 0) -> torch.Tensor:
        """int64 [num_rows], what to add to a row's place in the packed row to get its position."""
        positions: torch.Tensor = self._plan(0).positions
        return positions - torch.arange(len(positions), device=positions.device)

    get_query_offset = get_seq_length

    def get_mask_sizes(self, _query_length: int, _layer_idx: int = 0) -> tuple[int, int]:
        """Number of keys and position of the first: only asked for by models whose masks nobody uses here."""
        return self._plan(0).max_keys, 0

    def _plan(self, group: int) -> PagedPlan:
        if not self.plans:
            raise InternalError("the paged cache was used outside a step")
        return self.plans[group]


Forward = Callable[[torch.Tensor, object, torch.Tensor, torch.Tensor], torch.Tensor]


def run_paged(
    forward: Forward, cache: PagedStepCache, data: torch.Tensor, plans: Sequence[PagedPlan], kept: torch.Tensor
) -> torch.Tensor:
    """One forward over plans, whose attention finds `cache` through the span's binding.

    Args:
        forward: `SpanModel.forward`.
        cache: what the layers call.
        data: int64 [1, num_rows] token ids, or [1, num_rows, hidden_size].
        plans: of the step, one for each group of layers.
        kept: int64 [num_kept], the rows whose logits a tail gives.
    """
    cache.plans = tuple(plans)
    try:
        with torch.inference_mode():
            return forward(data, cache, plans[0].positions[None], kept)
    finally:
        cache.plans = ()


def run_buffers(forward: Forward, cache: PagedStepCache, buffers: StepBuffers) -> torch.Tensor:
    """`run_paged` over a bucket's buffers: what GraphedSteps captures."""
    return run_paged(forward, cache, buffers.data, buffers.plans, buffers.kept)
