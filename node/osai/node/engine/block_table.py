"""Where a session's tokens lie in paged storage."""

from bisect import bisect_right
from collections.abc import Sequence

import torch


class BlockTable:
    """The KV blocks of one session, in the order of its tokens.

    Attributes:
        slots: int64 [num_blocks * block_size]: token i lies at block * block_size + offset.
    """

    __slots__ = ("_breaks", "slots")

    def __init__(self, blocks: Sequence[int], block_size: int, device: torch.device | str = "cpu") -> None:
        first = torch.tensor(blocks, dtype=torch.int64)[:, None] * block_size  # [num_blocks, 1]
        self.slots = (first + torch.arange(block_size)).flatten().to(device)
        # token positions at which a block does not lie behind the one before it
        self._breaks = [i * block_size for i in range(1, len(blocks)) if blocks[i] != blocks[i - 1] + 1]

    def run(self, first: int, end: int) -> slice | None:
        """The slots of tokens [first, end) if they lie in one run, else None."""
        if bisect_right(self._breaks, end - 1) > bisect_right(self._breaks, first):
            return None
        start = int(self.slots[first])
        return slice(start, start + end - first)
