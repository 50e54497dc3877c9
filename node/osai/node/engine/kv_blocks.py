"""Accounts of KV blocks: who holds which, which are shared, which are free. Nothing here touches memory."""

from bisect import insort
from collections.abc import Iterable

from osai.core.errors import InvalidRequestError, ResourceExhaustedError, UnknownSessionError


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
    """Reference-counted KV blocks of `block_size` tokens, and the block table of each session.

    A block is in several tables only after `fork`; it is free again once it is in none.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free = FreeRuns(num_blocks)
        self._num_free = num_blocks
        self._holders = [0] * num_blocks
        self._tables: dict[int, list[int]] = {}

    @property
    def num_free(self) -> int:
        """Blocks in no table."""
        return self._num_free

    @property
    def sessions(self) -> frozenset[int]:
        """Sessions that have a table."""
        return frozenset(self._tables)

    def table(self, session: int) -> tuple[int, ...]:
        """A session's blocks, in the order of its tokens.

        Raises:
            UnknownSessionError: if it has no table.
        """
        return tuple(self._table(session))

    def reserve(self, session: int, num_tokens: int) -> tuple[int, ...]:
        """Make a session's table, new or not, long enough for `num_tokens`, and give it. All or nothing.

        Raises:
            ResourceExhaustedError: if there are too few free blocks.
        """
        table = self._tables.get(session, [])
        missing = self._num_blocks(num_tokens) - len(table)
        if missing > self.num_free:
            raise ResourceExhaustedError(
                f"{num_tokens} tokens need {missing} more KV blocks of {self.block_size}, and {self.num_free} of "
                f"{self.num_blocks} are free: try again later, or ask for fewer tokens"
            )
        if missing > 0:
            blocks = self._free.take(missing, after=table[-1] + 1 if table else None)
            self._num_free -= missing
            for block in blocks:
                self._holders[block] = 1
            table += blocks
        self._tables[session] = table
        return tuple(table)

    def fork(self, session: int, child: int, num_tokens: int) -> int:
        """Give a new session the blocks that hold another's first `num_tokens` tokens; both hold them from now on.

        Returns:
            The tokens shared: `num_tokens` down to a whole number of blocks, as a shared block is never written again.

        Raises:
            UnknownSessionError: if `session` has no table.
            InvalidRequestError: if `child` has one, or `session` has no room for so many tokens.
        """
        table = self._table(session)
        count = num_tokens // self.block_size
        if child in self._tables:
            raise InvalidRequestError(f"session {child} holds KV blocks already; release it first")
        if count > len(table):
            raise InvalidRequestError(
                f"session {session} holds {len(table)} KV blocks, {count} can't be shared of them"
            )
        for block in table[:count]:
            self._holders[block] += 1
        self._tables[child] = table[:count]
        return count * self.block_size

    def cut(self, session: int, position: int) -> int:
        """Let go of the blocks that only hold tokens at `position` and later.

        Returns:
            The position from which the session may be written again: `position`, or the begin of its block if that is
            shared, which is then let go of too.

        Raises:
            UnknownSessionError: if the session has no table.
            InvalidRequestError: if `position` lies past its blocks.
        """
        table = self._table(session)
        kept = self._num_blocks(position)
        if kept > len(table):
            raise InvalidRequestError(
                f"session {session} can't be cut to {position}: it has room for no more than that"
            )
        if position % self.block_size and self._holders[table[kept - 1]] > 1:
            kept -= 1
            position = kept * self.block_size
        dropped = table[kept:]
        del table[kept:]
        self._let_go(dropped)
        return position

    def release(self, session: int) -> None:
        """Let go of all of a session's blocks. A session without a table is no error."""
        self._let_go(self._tables.pop(session, []))

    def _let_go(self, blocks: list[int]) -> None:
        freed = []
        for block in blocks:
            self._holders[block] -= 1
            if self._holders[block] == 0:
                freed.append(block)
        self._free.give(freed)
        self._num_free += len(freed)

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _table(self, session: int) -> list[int]:
        if session not in self._tables:
            raise UnknownSessionError(f"session {session} holds no KV blocks")
        return self._tables[session]
