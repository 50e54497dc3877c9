"""Where the rows of a packed step, and the keys that they see, lie in KV pages: tensors for kernels that read pages.

One plan serves one group of layers. Its tensors can be filled again in place: a captured graph then reads new numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Self

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedRows:
    """Rows of one session: its tokens [position, position + count), whose keys and values are stored already.

    Attributes:
        blocks: the session's KV blocks in the order of tokens, up to the one of the last row.
        first_block: how many of its blocks come before them, and are not kept.
    """

    blocks: Sequence[int]
    position: int
    count: int
    first_block: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSizes:
    """How many of everything the tensors of a plan hold.

    Attributes:
        num_parts: sessions.
        num_rows: packed rows.
        num_blocks: blocks of a session, at most.
    """

    num_parts: int
    num_rows: int
    num_blocks: int


class PagedPlan:
    """The tensors of one step. Parts that pad it read one key of the scratch block and write there.

    Attributes:
        sizes: of the tensors.
        block_size: tokens in a block.
        is_fixed: whether the tensors are filled again and again; then shapes follow from the sizes alone.
        block_tables: int32 [num_parts, num_blocks], filled up with the null block.
        num_keys: int32 [num_parts], keys of each part in the pages of its table, the rows' own among them.
        query_starts: int32 [num_parts + 1], where each part's rows begin.
        first_positions: int64 [num_parts], position in its session of each part's first key.
        positions: int64 [num_rows], of each row in its session.
        slots: int64 [num_rows], where each row's key and value go.
        counts: each part's rows, on the host.
        key_counts: `num_keys`, on the host.
        host_tables: each part's blocks, on the host.
        version: how often the plan was filled.
    """

    def __init__(
        self, sizes: PageSizes, block_size: int, null_block: int, scratch_block: int, device: torch.device | str
    ) -> None:
        self.sizes, self.block_size, self.is_fixed = sizes, block_size, False
        self._null_block, self._scratch_block = null_block, scratch_block
        parts, rows, blocks = sizes.num_parts, sizes.num_rows, sizes.num_blocks
        pin = torch.device(device).type == "cuda"
        self._host_ints = torch.empty(parts * blocks + 2 * parts + 1, dtype=torch.int32, pin_memory=pin)
        self._host_longs = torch.empty(parts + 2 * rows, dtype=torch.int64, pin_memory=pin)
        self._ints, self._longs = (torch.empty_like(t, device=device) for t in (self._host_ints, self._host_longs))
        tables, self.num_keys, self.query_starts = torch.split(self._ints, [parts * blocks, parts, parts + 1])
        self.block_tables = tables.view(parts, blocks)
        self.first_positions, self.positions, self.slots = torch.split(self._longs, [parts, rows, rows])
        self.counts: list[int] = []
        self.key_counts: list[int] = []
        self.host_tables: list[Sequence[int]] = []
        self.version = 0
        self._key_slots: torch.Tensor | None = None
        self._packed: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def of(
        cls,
        parts: Sequence[PagedRows],
        block_size: int,
        null_block: int,
        scratch_block: int,
        device: torch.device | str,
    ) -> Self:
        """A plan that fits `parts`."""
        sizes = PageSizes(
            num_parts=len(parts),
            num_rows=sum(part.count for part in parts),
            num_blocks=max(len(part.blocks) for part in parts),
        )
        plan = cls(sizes, block_size, null_block, scratch_block, device)
        plan.fill(parts)
        return plan

    @classmethod
    def fixed(
        cls, num_parts: int, num_blocks: int, block_size: int, null_block: int, scratch_block: int, device: torch.device
    ) -> Self:
        """A plan for steps of one row a session that is filled again and again."""
        sizes = PageSizes(num_parts=num_parts, num_rows=num_parts, num_blocks=num_blocks)
        plan = cls(sizes, block_size, null_block, scratch_block, device)
        plan.is_fixed = True
        return plan

    def fill(self, parts: Sequence[PagedRows]) -> None:
        """Write `parts` into the tensors, and parts that pad them behind.

        On a GPU the copies run behind what the stream has still to do; the caller must not fill again before that is
        done, which reading a step's results makes sure of.
        """
        num_padding = self.sizes.num_parts - len(parts)
        padding = PagedRows(blocks=(self._scratch_block,), position=0, count=1)
        filled = [*parts, *[padding] * num_padding]
        size, num_blocks = self.block_size, self.sizes.num_blocks
        self.version += 1
        self.host_tables = [part.blocks for part in filled]
        self.counts = [part.count for part in filled]
        self.key_counts = [part.position + part.count - part.first_block * size for part in filled]
        tables = [[*part.blocks, *[self._null_block] * (num_blocks - len(part.blocks))] for part in filled]
        starts = [0, *accumulate(self.counts)]
        self._host_ints.copy_(
            torch.tensor([*chain.from_iterable(tables), *self.key_counts, *starts], dtype=torch.int32)
        )
        positions = [p for part in filled for p in range(part.position, part.position + part.count)]
        slots = [
            part.blocks[p // size - part.first_block] * size + p % size
            for part in filled
            for p in range(part.position, part.position + part.count)
        ]
        firsts = [part.first_block * size for part in filled]
        self._host_longs.copy_(torch.tensor([*firsts, *positions, *slots], dtype=torch.int64))
        self._ints.copy_(self._host_ints, non_blocking=True)
        self._longs.copy_(self._host_longs, non_blocking=True)
        self.begin()

    def begin(self) -> None:
        """Forget what was worked out of the tensors: a step begins, perhaps one that is being captured."""
        self._key_slots = self._packed = None

    @property
    def is_decode(self) -> bool:
        """Whether every part has one row."""
        return self.sizes.num_rows == self.sizes.num_parts

    @property
    def max_keys(self) -> int:
        """Keys of a part at most."""
        return self.sizes.num_blocks * self.block_size if self.is_fixed else max(self.key_counts)

    @property
    def key_slots(self) -> torch.Tensor:
        """int64 [num_parts, num_blocks * block_size], where each part's keys lie; worked out once a step.

        Behind them comes a slot of zeros: a block's unused ones hold what other sessions left there, perhaps no numbers
        at all, and a value that is none spoils sums even with a weight of zero.
        """
        if self._key_slots is None:
            offsets = torch.arange(self.block_size, device=self.block_tables.device)
            slots = (self.block_tables.long()[:, :, None] * self.block_size + offsets).flatten(1)
            used = torch.arange(slots.shape[1], device=slots.device) < self.num_keys[:, None]
            self._key_slots = torch.where(used, slots, self._null_block * self.block_size)
        return self._key_slots

    @property
    def packed_key_slots(self) -> torch.Tensor:
        """int64 [last of key_starts], where the parts' keys lie, one part after the other.

        In a fixed plan every part has room for `max_keys`, of which its first `num_keys` count.
        """
        return self._pack()[0]

    @property
    def key_starts(self) -> torch.Tensor:
        """int32 [num_parts + 1], where each part's keys begin in `packed_key_slots`."""
        return self._pack()[1]

    def _pack(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._packed is None and self.is_fixed:
            parts = torch.arange(self.sizes.num_parts + 1, dtype=torch.int32, device=self.num_keys.device)
            self._packed = (self.key_slots.flatten(), parts * self.max_keys)
        elif self._packed is None:
            slots = [row[:count] for row, count in zip(self.key_slots, self.key_counts, strict=True)]
            starts = torch.nn.functional.pad(self.num_keys.cumsum(0, dtype=torch.int32), (1, 0))
            self._packed = (torch.cat(slots), starts)
        return self._packed
