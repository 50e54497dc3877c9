"""Which keys a query may see: all before it, those in a sliding window, or those in its own chunk."""

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True, slots=True)
class Window:
    """The keys of one layer that a query may see, besides none after it.

    Attributes:
        kind: "full" for all, "sliding" for the last `size` (its own among them), "chunked" for those in its own chunk
            of `size` positions.
        size: in tokens; of no meaning for "full".
    """

    kind: Literal["full", "sliding", "chunked"] = "full"
    size: int = 0

    def first_key(self, position: int) -> int:
        """Position of the first key that the query at `position` may see."""
        if self.kind == "sliding":
            return max(0, position - self.size + 1)
        if self.kind == "chunked":
            return position // self.size * self.size
        return 0

    def first_keys(self, positions: torch.Tensor) -> torch.Tensor:
        """`first_key` of each of the positions, int64 [num_rows]."""
        if self.kind == "sliding":
            return (positions - (self.size - 1)).clamp_min(0)
        if self.kind == "chunked":
            return positions // self.size * self.size
        return torch.zeros_like(positions)

    def first_read(self, position: int) -> int:
        """Position of the first key to hand to attention along with a mask, and so of the first that is kept.

        For chunks this is further back than need be: transformers does so, and in bf16 the number of keys, even masked
        ones, decides how sums are rounded. A session alone in its step is to get the very same numbers. After a shared
        prefix, of which there may be no more than what is seen, it is what is there.
        """
        return max(0, position - self.size + 1) if self.kind == "chunked" else self.first_key(position)

    def first_position(self, first_key: int) -> int:
        """The first position whose query sees no key before `first_key`."""
        if first_key == 0:
            return 0
        if self.kind == "chunked":
            return -(-first_key // self.size) * self.size
        return first_key + self.size - 1

    def mask(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Which query sees which key.

        Args:
            queries: int64 [num_queries], positions.
            keys: int64 [num_keys], positions.

        Returns:
            Bool [num_queries, num_keys].
        """
        q, k = queries[:, None], keys[None]
        seen = k <= q
        if self.kind == "sliding":
            seen &= k > q - self.size
        elif self.kind == "chunked":
            seen &= k // self.size == q // self.size
        return seen
