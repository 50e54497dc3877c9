"""Accounts of KV blocks: who holds which, which hold known tokens, which are free. Nothing here touches memory."""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable

from osai.core.errors import InternalError, ResourceExhaustedError

BlockKey = tuple[int, str, bytes]  # group, scope, hash: what a registered block holds


class FreeRuns:
    """Free blocks as sorted, disjoint runs [start, end) that do not touch."""

    __slots__ = ("_runs",)

    def __init__(self, num_blocks: int) -> None:
        self._runs = [(0, num_blocks)]

    def __len__(self) -> int:
        return sum(end - start for start, end in self._runs)

    def take(self, count: int, after: int | None) -> list[int]:
        """Take `count` blocks, which must be free.

        The run that begins at `after` comes first if it is long enough, then the shortest that is, then the longest of
        all until there are enough: a session's blocks should lie in one run, and long runs stay whole.
        """
        enough = [run for run in self._runs if run[1] - run[0] >= count]
        chosen = [run for run in enough if run[0] == after] or sorted(enough, key=lambda run: run[1] - run[0])[:1]
        if not chosen:
            chosen = sorted(self._runs, key=lambda run: run[0] - run[1])
        taken: list[int] = []
        for start, end in chosen:
            cut = min(end, start + count - len(taken))
            if cut > start:
                self._runs.remove((start, end))
                if cut < end:
                    insort(self._runs, (cut, end))
                taken += range(start, cut)
        return taken

    def give(self, blocks: Iterable[int]) -> None:
        """Give blocks back, none of which may be free."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted([*self._runs, *((block, block + 1) for block in blocks)]):
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        self._runs = merged


class BlockPool:
    """Reference-counted KV blocks, each of one group of layers while it is in use.

    A registered block is known to hold certain tokens: it may have several holders, and is never written. Once nobody
    holds it, it stays as it is until its memory is wanted: those given back longest ago go first.
    """

    def __init__(self, num_blocks: int, num_groups: int = 1) -> None:
        self.num_blocks = num_blocks
        self._free = FreeRuns(num_blocks)
        self._cached: OrderedDict[int, None] = OrderedDict()  # registered and held by nobody, longest unused first
        self._holders = [0] * num_blocks
        self._group = [0] * num_blocks
        self._key: list[BlockKey | None] = [None] * num_blocks
        self._blocks: dict[BlockKey, int] = {}
        self._num_held = [0] * num_groups

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, those that are still known to hold something among them."""
        return self.num_blocks - sum(self._num_held)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds, and that are known to hold something."""
        return len(self._cached)

    def num_held(self, group: int) -> int:
        """Blocks of a group that somebody holds."""
        return self._num_held[group]

    def num_holders(self, block: int) -> int:
        """Tables that a block is in."""
        return self._holders[block]

    def is_writable(self, block: int) -> bool:
        """Whether its only holder may write it."""
        return self._key[block] is None and self._holders[block] == 1

    def take(self, count: int, group: int, after: int | None = None) -> list[int]:
        """Take blocks that nobody holds, for one holder; they lie behind `after` if they can.

        Raises:
            ResourceExhaustedError: if there are too few.
        """
        if count > self.num_free:
            raise ResourceExhaustedError(f"{count} KV blocks are wanted, and {self.num_free} are free; try again later")
        evicted = [self._cached.popitem(last=False)[0] for _ in range(count - (self.num_free - len(self._cached)))]
        for block in evicted:
            self._forget(block)
        if evicted:
            self._free.give(evicted)
        blocks = self._free.take(count, after) if count else []
        for block in blocks:
            self._holders[block], self._group[block] = 1, group
        self._num_held[group] += count
        return blocks

    def find(self, key: BlockKey) -> int | None:
        """The block that is known to hold this."""
        return self._blocks.get(key)

    def share(self, block: int) -> None:
        """Give a registered block one more holder."""
        if self._key[block] is None:
            raise InternalError(f"KV block {block} is not known to hold anything that could be shared")
        if self._holders[block] == 0:
            del self._cached[block]
            self._num_held[self._group[block]] += 1
        self._holders[block] += 1

    def give(self, blocks: Iterable[int]) -> None:
        """One holder lets go of these blocks. Of those that stay known, the first are the first to be forgotten."""
        freed = []
        for block in blocks:
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._num_held[self._group[block]] -= 1
                if self._key[block] is None:
                    freed.append(block)
                else:
                    self._cached[block] = None
        if freed:
            self._free.give(freed)

    def register(self, block: int, key: BlockKey) -> None:
        """A held block holds this from now on; not if another is known to already, or it is known by another name."""
        if self._key[block] is None and key not in self._blocks:
            self._key[block], self._blocks[key] = key, block

    def withdraw(self, block: int) -> None:
        """A held block is no longer believed to hold anything known."""
        self._forget(block)

    def _forget(self, block: int) -> None:
        key = self._key[block]
        if key is not None:
            del self._blocks[key]
            self._key[block] = None
