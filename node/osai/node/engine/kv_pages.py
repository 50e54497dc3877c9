"""Where the keys and values of a layer lie. Data alone."""

from dataclasses import dataclass

import torch

from osai.node.engine.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedLayer:
    """One layer's pages.

    Attributes:
        group: of layers that share block tables: which of a step's plans is its.
        keys: [num_blocks * block_size, kv_heads, key_dim].
        values: [num_blocks * block_size, kv_heads, value_dim].
        window: which keys its queries see.
    """

    group: int
    keys: torch.Tensor
    values: torch.Tensor
    window: Window
