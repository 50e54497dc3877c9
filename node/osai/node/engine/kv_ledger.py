"""Decides which KV blocks the sessions of one span hold. Pure: blocks are numbers here.

Groups of layers that see everything hold blocks for all of a session's tokens from the first on. Groups that see a
window have a number of blocks promised, as many as they can ever need between two steps, and hold what they need of
them; what a step's rows take beyond that is lent to them by the span, which keeps enough back for one step. So no step
ever finds too few.
"""

from collections.abc import Sequence

from osai.core.errors import ResourceExhaustedError
from osai.node.engine.kv_blocks import BlockPool
from osai.node.engine.kv_cut import cut_group, restored
from osai.node.engine.kv_plan import session_blocks, step_blocks
from osai.node.engine.kv_table import GroupBlocks, SessionBlocks
from osai.node.engine.prefix_match import longest_match
from osai.node.engine.windows import Window


class KVLedger:
    """The accounts of a span.

    Args:
        windows: what each group of layers keeps.
        num_blocks: for sessions.
        block_size: tokens in a block.
        max_step_rows: rows that all sessions together bring into a step at most, those that bring one row left out.
    """

    def __init__(self, windows: Sequence[Window], num_blocks: int, block_size: int, max_step_rows: int) -> None:
        self.windows, self.block_size = tuple(windows), block_size
        self.pool = BlockPool(num_blocks, len(windows))
        self._full = [group for group, window in enumerate(windows) if window.kind == "full"]
        self._num_promised = step_blocks(windows, block_size, max_step_rows)

    @property
    def num_free(self) -> int:
        """Blocks that are neither held by groups that see everything, nor promised."""
        return self.pool.num_blocks - self._num_promised - sum(self.pool.num_held(group) for group in self._full)

    def open(
        self, scope: str, hashes: tuple[bytes, ...], num_prompt_tokens: int, max_total_tokens: int
    ) -> SessionBlocks:
        """Set blocks aside for a session; what is known of its prompt's beginning counts as computed.

        Raises:
            ResourceExhaustedError: if there are too few free blocks; nothing has changed then.
        """
        groups = tuple(
            GroupBlocks(group, window, session_blocks(window, self.block_size, max_total_tokens))
            for group, window in enumerate(self.windows)
        )
        limit = min(len(hashes), (num_prompt_tokens - 1) // self.block_size)
        known = longest_match(
            self.windows, self.block_size, limit, lambda g, i: self.pool.find((g, scope, hashes[i])) is not None
        )
        found = [self._known_blocks(group, scope, hashes, known) for group in groups]
        held = sum(self.pool.num_holders(block) > 0 for group in self._full for block in found[group])
        missing = sum(group.limit for group in groups) - held
        if missing > self.num_free:
            raise ResourceExhaustedError(
                f"{max_total_tokens} tokens need {missing} more KV blocks of {self.block_size}, and {self.num_free} of "
                f"{self.pool.num_blocks} are free: try again later, or ask for fewer tokens"
            )
        self._num_promised += sum(group.limit for group in groups if not group.is_full)
        for group, blocks in zip(groups, found, strict=True):
            for block in blocks:
                self.pool.share(block)
            group.replace(known - len(blocks), blocks)
        for group in groups:
            if group.is_full:
                after = group.blocks[-1] + 1 if group.blocks else None
                group.replace(0, group.blocks + self.pool.take(group.limit - known, group.group, after))
        return SessionBlocks(scope, hashes, groups, num_computed=known * self.block_size, num_registered=known)

    def advance(self, session: SessionBlocks, position: int, count: int) -> None:
        """Before a step with rows [position, position + count): have blocks for them, and let go of old ones for it."""
        session.num_begun = max(session.num_begun, position + count)
        last = (position + count - 1) // self.block_size
        for group in session.groups:
            if last < group.end:
                continue
            missing = last + 1 - group.end
            excess = len(group.blocks) + missing - group.limit
            unseen = group.window.first_read(position) // self.block_size - group.first
            num_dropped = max(0, min(excess, unseen, len(group.blocks)))
            dropped, kept = group.blocks[:num_dropped], group.blocks[num_dropped:]
            reused = [block for block in dropped if self.pool.is_writable(block)][:missing]
            self.pool.give([block for block in dropped if block not in reused])
            after = (kept or dropped or [-1])[-1] + 1
            fresh = self.pool.take(missing - len(reused), group.group, after)
            group.replace(group.first + num_dropped, kept + reused + fresh)

    def computed(self, session: SessionBlocks, position: int, count: int) -> None:
        """After a step with these rows that succeeded: blocks that are complete become known.

        Rows behind a gap, which others have not filled, count for nothing.
        """
        if position <= session.num_computed:
            session.num_computed = max(session.num_computed, position + count)
        complete = min(len(session.hashes), session.num_computed // self.block_size)
        if complete > session.num_registered:
            self._register(session, session.hashes, session.num_registered, complete)
            session.num_registered = complete

    def settle(self, session: SessionBlocks) -> None:
        """After a step: let go of what was lent."""
        for group in session.groups:
            if (excess := len(group.blocks) - group.limit) > 0:
                self.pool.give(group.blocks[:excess])
                group.replace(group.first + excess, group.blocks[excess:])

    def check_cut(self, session: SessionBlocks, position: int) -> None:
        """Whether `cut` would succeed now.

        Raises:
            InvalidRequestError: if a group has let go of what the row at `position` sees.
            ResourceExhaustedError: if blocks that others share must be replaced, and too few are free.
        """
        for group in session.groups:
            restored(self.pool, session, group, position, self.block_size)
        shared = sum(
            self.pool.num_holders(block) > 1
            for group in session.groups
            if group.is_full
            for block in group.blocks[position // self.block_size :]
        )
        if shared > self.num_free:
            raise ResourceExhaustedError(
                f"{shared} KV blocks are shared with other sessions and must not be written, and {self.num_free} are "
                "free to replace them: try again later"
            )

    def cut(self, session: SessionBlocks, position: int) -> list[tuple[int, int]]:
        """Rows from `position` on will be written, maybe again: they go to no block that is shared or known.

        Returns:
            (from, to): blocks to copy, in this order, before the next step.

        Raises:
            InvalidRequestError, ResourceExhaustedError: as `check_cut` does; nothing has changed then.
        """
        self.check_cut(session, position)
        copies = []
        for group in session.groups:
            copies += cut_group(self.pool, session, group, position, self.block_size)
        if position < session.num_begun:  # rows that come again need not be the prompt's
            session.hashes = session.hashes[: position // self.block_size]
            session.num_begun = position
        session.num_computed = min(session.num_computed, position)
        session.num_registered = min(session.num_registered, position // self.block_size)
        self.settle(session)
        return copies

    def close(self, session: SessionBlocks, hashes: Sequence[bytes] = (), *, has_failed: bool = False) -> None:
        """Let go of all blocks.

        Args:
            session: whose. One that is closed already is no error.
            hashes: of the session's full blocks from the first on; those that were computed stay known.
            has_failed: its blocks are not to be trusted, and none of them stays known.
        """
        if session.is_closed:
            return
        session.is_closed = True
        held = [(number, block) for group in session.groups for number, block in enumerate(group.blocks, group.first)]
        if has_failed:
            for _, block in held:
                self.pool.withdraw(block)
        else:
            complete = min(len(hashes), session.num_computed // self.block_size)
            self._register(session, hashes, session.num_registered, complete)
        self._num_promised -= sum(group.limit for group in session.groups if not group.is_full)
        # the end of a chain is of no use without its begin: it is the first to be forgotten
        self.pool.give([block for _, block in sorted(held, key=lambda pair: -pair[0])])
        for group in session.groups:
            group.replace(group.first, [])

    def _known_blocks(self, group: GroupBlocks, scope: str, hashes: Sequence[bytes], known: int) -> list[int]:
        """Those blocks of the first `known` that the row behind them sees."""
        first = group.window.first_key(known * self.block_size) // self.block_size
        found = (self.pool.find((group.group, scope, digest)) for digest in hashes[first:known])
        return [block for block in found if block is not None]

    def _register(self, session: SessionBlocks, hashes: Sequence[bytes], start: int, end: int) -> None:
        for group in session.groups:
            for i in range(max(start, group.first), min(end, group.end)):
                self.pool.register(group.blocks[i - group.first], (group.group, session.scope, hashes[i]))
