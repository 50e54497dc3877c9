"""Where a session's tokens lie in paged storage."""

from bisect import bisect_right
from collections.abc import Sequence

import torch


class BlockTable:
    """KV blocks of one session, in the order of its tokens.

    Args:
        blocks: the blocks.
        block_size: tokens in a block.
        device: where slots are wanted.
        first_block: how many of the session's blocks come before them, and are not kept.

    Attributes:
        blocks: the blocks.
        first_block: how many of the session's blocks come before them.
        first: position of the first token kept.
    """

    __slots__ = ("_breaks", "_slots", "blocks", "first", "first_block")

    def __init__(
        self, blocks: Sequence[int], block_size: int, device: torch.device | str = "cpu", first_block: int = 0
    ) -> None:
        self.blocks, self.first_block = tuple(blocks), first_block
        starts = torch.tensor(blocks, dtype=torch.int64)[:, None] * block_size  # [num_blocks, 1]
        self._slots = (starts + torch.arange(block_size)).flatten().to(device)
        self.first = first_block * block_size
        # token positions at which a block does not lie behind the one before it
        breaks = (i for i in range(1, len(blocks)) if blocks[i] != blocks[i - 1] + 1)
        self._breaks = [(first_block + i) * block_size for i in breaks]

    def slots(self, first: int, end: int) -> torch.Tensor:
        """int64 [end - first]: where tokens [first, end) lie, `block * block_size + offset` each."""
        return self._slots[first - self.first : end - self.first]

    def run(self, first: int, end: int) -> slice | None:
        """The slots of tokens [first, end) if they lie in one run, else None."""
        if self._breaks and bisect_right(self._breaks, end - 1) > bisect_right(self._breaks, first):
            return None
        start = int(self._slots[first - self.first])
        return slice(start, start + end - first)
