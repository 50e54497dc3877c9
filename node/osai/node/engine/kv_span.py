"""The KV of one span, as event loop and engine thread share it: the ledger behind a lock, and tables of slots.

The loop opens, cuts back and closes sessions at any moment. A step that the thread has in hand then goes on and writes
where it would have written, which does no harm: what is given up meanwhile is only written again by later steps. Rows
that were cut count for nothing when the step ends.
"""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from osai.core.errors import InvalidRequestError
from osai.core.prefix import BLOCK_TOKENS, HASH_BYTES
from osai.node.engine.api import Rows, SessionSpec
from osai.node.engine.block_table import BlockTable
from osai.node.engine.kv_ledger import KVLedger
from osai.node.engine.kv_plan import most_tokens
from osai.node.engine.kv_table import SessionBlocks


@dataclass(slots=True, eq=False)
class SessionKV:
    """One session's KV on a span.

    Attributes:
        blocks: the ledger's account of it; only touched under the lock.
        tables: a table of slots for each group of layers; the engine thread's.
        revisions: of the accounts that `tables` shows.
    """

    blocks: SessionBlocks
    tables: list[BlockTable] = field(default_factory=list)
    revisions: list[int] = field(default_factory=list)


class KVPart(Protocol):
    """One session's rows in a step."""

    @property
    def kv(self) -> SessionKV:
        """The session's."""
        ...

    @property
    def rows(self) -> Rows:
        """Which rows."""
        ...

    @property
    def num_good(self) -> int:
        """Those, from the first on, that have not been cut. Only ever falls, and before `cut` or `close` is called."""
        ...


@dataclass(frozen=True, slots=True)
class StepKV:
    """What a step needs to know.

    Attributes:
        tables: for each part, its session's, one for each group of layers.
        copies: (from, to) of blocks to copy before it, in this order.
    """

    tables: list[tuple[BlockTable, ...]]
    copies: list[tuple[int, int]]


class SpanKV:
    """The KV blocks of a span.

    Args:
        ledger: the accounts.
        scratch_block: where rows go that nobody wants any more.
        max_context: tokens that the model can take, which bounds what a session is told to be able to have.
        device: where slots are wanted.
    """

    def __init__(
        self, ledger: KVLedger, scratch_block: int, max_context: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self._lock = threading.Lock()
        self._ledger, self._scratch_block, self.device = ledger, scratch_block, device
        self._max_context = max_context
        self._copies: list[tuple[int, int]] = []
        self.block_size = ledger.block_size
        self.num_tokens = self.num_free_tokens()

    def num_free_tokens(self) -> int:
        """The longest session that could be opened now, prompt and generation together."""
        with self._lock:
            num_free = self._ledger.num_free
        return most_tokens(self._ledger.windows, self.block_size, num_free, self._max_context)

    def open(self, spec: SessionSpec) -> SessionKV:
        """Set blocks aside for a session; those that hold its prompt's beginning already are shared.

        Raises:
            InvalidRequestError: if it could not be opened even if it were alone, or its hashes are none.
            ResourceExhaustedError: if there are too few free blocks.
        """
        if spec.max_total_tokens > self.num_tokens:
            raise InvalidRequestError(
                f"session {spec.session}: {spec.max_total_tokens} tokens can never fit, this stage holds "
                f"{self.num_tokens}; ask for fewer, or give the node more with --memory"
            )
        hashes = spec.block_hashes
        if len(hashes) > spec.num_prompt_tokens // BLOCK_TOKENS or any(len(h) != HASH_BYTES for h in hashes):
            raise InvalidRequestError(
                f"session {spec.session}: {len(hashes)} block hashes for {spec.num_prompt_tokens} prompt tokens; there "
                f"is one of {HASH_BYTES} bytes for each full block of {BLOCK_TOKENS} tokens"
            )
        if self.block_size != BLOCK_TOKENS:  # these blocks have no names
            hashes = ()
        with self._lock:
            return SessionKV(self._ledger.open(spec.scope, hashes, spec.num_prompt_tokens, spec.max_total_tokens))

    def check_cut(self, kv: SessionKV, position: int) -> None:
        """Whether a session can be cut back now.

        Raises:
            InvalidRequestError: if its layers with windows have let go of what comes before `position`.
            ResourceExhaustedError: if shared blocks must be replaced, and too few are free.
        """
        with self._lock:
            self._ledger.check_cut(kv.blocks, position)

    def cut(self, kv: SessionKV, position: int) -> None:
        """Cut a session back, whose rows from `position` on must not wait any more.

        Raises:
            InvalidRequestError, ResourceExhaustedError: as `check_cut` does; nothing has changed then.
        """
        with self._lock:
            self._copies += self._ledger.cut(kv.blocks, position)

    def close(self, kv: SessionKV, hashes: Sequence[bytes] = (), *, has_failed: bool = False) -> None:
        """Let go of a session's blocks. See KVLedger.close."""
        with self._lock:
            self._ledger.close(kv.blocks, hashes if self.block_size == BLOCK_TOKENS else (), has_failed=has_failed)

    def begin_step(self, parts: Sequence[KVPart]) -> StepKV:
        """The thread takes a step in hand.

        Raises:
            ResourceExhaustedError: if the step has more rows than the ledger was told to expect.
        """
        tables = []
        with self._lock:
            for part in parts:
                rows, num_good = part.rows, part.num_good
                if num_good:
                    self._ledger.advance(part.kv.blocks, rows.position, num_good)
                tables.append(self._tables(part.kv) if num_good == rows.count else self._cut_tables(part.kv, rows))
            copies, self._copies = self._copies, []
        return StepKV(tables, copies)

    def end_step(self, parts: Sequence[KVPart], failed: Collection[int]) -> None:
        """The step has ended; `failed` are the places of parts that have nothing to show for it."""
        with self._lock:
            for i, part in enumerate(parts):
                blocks = part.kv.blocks
                if blocks.is_closed:
                    continue
                if i not in failed and (num_good := part.num_good):
                    self._ledger.computed(blocks, part.rows.position, num_good)
                self._ledger.settle(blocks)

    def _tables(self, kv: SessionKV) -> tuple[BlockTable, ...]:
        revisions = [group.revision for group in kv.blocks.groups]
        if revisions != kv.revisions:
            for i, group in enumerate(kv.blocks.groups):
                if i >= len(kv.tables):
                    kv.tables.append(self._table(group.blocks, group.first))
                elif revisions[i] != kv.revisions[i]:
                    kv.tables[i] = self._table(group.blocks, group.first)
            kv.revisions = revisions
        return tuple(kv.tables)

    def _table(self, blocks: Sequence[int], first_block: int) -> BlockTable:
        return BlockTable(blocks, self.block_size, self.device, first_block)

    def _cut_tables(self, kv: SessionKV, rows: Rows) -> tuple[BlockTable, ...]:
        """Of a session some of whose rows nobody wants: those for which it has no blocks go to the scratch block."""
        end = -(-(rows.position + rows.count) // self.block_size)
        tables = []
        for group in kv.blocks.groups:
            first = min(group.first, rows.position // self.block_size)
            before, behind = group.first - first, max(0, end - group.end)
            blocks = [self._scratch_block] * before + group.blocks + [self._scratch_block] * behind
            tables.append(self._table(blocks, first))
        return tuple(tables)
