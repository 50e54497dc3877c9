"""One packed step: which rows belong to whom, where their keys and values lie, and which keys each row may see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from osai.node.engine.block_table import BlockTable
from osai.node.engine.windows import Window

# Up to this many key rows, single rows of all sessions share one attention call over gathered keys, which saves calls;
# above it, each session's keys are read where they lie, which saves copying them. Measured on a CPU.
MAX_GATHERED_KEYS = 2048


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one session: its tokens [position, position + count), which lie where `table` says."""

    table: BlockTable
    position: int
    count: int

    @property
    def end(self) -> int:
        """Position after the last row."""
        return self.position + self.count


@dataclass(frozen=True, slots=True)
class Read:
    """One attention call.

    Attributes:
        rows: the queries, as packed rows.
        num_parts: sessions in the call; above 1 each brings one row.
        keys: which KV rows: a slice where they lie in one run, else int64 [num_parts * num_keys].
        mask: bool, to broadcast to [num_parts, heads, queries, keys]; None if every query sees every key or is_causal.
        is_causal: query i sees keys 0 to i.
    """

    rows: slice
    num_parts: int
    keys: slice | torch.Tensor
    mask: torch.Tensor | None = None
    is_causal: bool = False


class StepLayout:
    """Parts of a packed row [1, num_tokens], those of one row first.

    Attributes:
        parts: the sessions' rows, in packed order.
        num_tokens: packed rows.
        longest: the largest end of all parts.
        positions: int64 [num_tokens], of each packed row in its session.
        slots: int64 [num_tokens], where each row's key and value go.
    """

    def __init__(self, parts: Sequence[Part], *, null_slot: int, device: torch.device | str = "cpu") -> None:
        self.parts = tuple(parts)
        self._null_slot, self._device = null_slot, device
        self.num_tokens = sum(part.count for part in parts)
        self.longest = max(part.end for part in parts)
        self.positions = torch.cat([torch.arange(part.position, part.end) for part in parts]).to(device)
        self.slots = torch.cat([part.table.slots[part.position : part.end] for part in parts])
        self._reads: dict[tuple[Window, bool], tuple[Read, ...]] = {}
        self._past: torch.Tensor | None = None

    @property
    def past_slots(self) -> torch.Tensor:
        """int64 [sum of the parts' ends], the slots of every session's whole past, one session after the other."""
        if self._past is None:
            self._past = torch.cat([part.table.slots[: part.end] for part in self.parts])
        return self._past

    def reads(self, window: Window, *, from_past: bool = False) -> tuple[Read, ...]:
        """The attention calls of a layer, built once a step for each kind of window.

        Args:
            window: of the layer.
            from_past: keys are numbered as in `past_slots`, not by slot.
        """
        key = (window, from_past)
        if key not in self._reads:
            self._reads[key] = tuple(self._past_reads(window) if from_past else self._slot_reads(window))
        return self._reads[key]

    def _slot_reads(self, window: Window) -> Iterator[Read]:
        num_single = next((i for i, part in enumerate(self.parts) if part.count > 1), len(self.parts))
        singles = [(part, window.first_key(part.position)) for part in self.parts[:num_single]]
        num_keys = max((part.end - first for part, first in singles), default=0)
        gathers = num_single > 1 and num_single * num_keys <= MAX_GATHERED_KEYS
        if gathers:
            yield self._gather(singles, num_keys)
        row = 0
        for i, part in enumerate(self.parts):
            if i >= num_single or not gathers:
                first = window.first_read(part.position)
                run = part.table.run(first, part.end)
                keys = part.table.slots[first : part.end] if run is None else run
                yield self._one(part, window, row, first, keys)
            row += part.count

    def _past_reads(self, window: Window) -> Iterator[Read]:
        row = past = 0
        for part in self.parts:
            yield self._one(part, window, row, 0, slice(past, past + part.end))
            row += part.count
            past += part.end

    def _one(self, part: Part, window: Window, row: int, first: int, keys: slice | torch.Tensor) -> Read:
        """The call of one part, whose keys begin at position `first`."""
        mask, is_causal = None, False
        if part.position == 0 and part.count > 1 and window.first_key(part.end - 1) == 0:
            is_causal = True
        elif part.count > 1 or window.first_key(part.position) > first:
            queries = torch.arange(part.position, part.end, device=self._device)
            mask = window.mask(queries, torch.arange(first, part.end, device=self._device))
        return Read(slice(row, row + part.count), 1, keys, mask, is_causal)

    def _gather(self, singles: list[tuple[Part, int]], num_keys: int) -> Read:
        """One call for many sessions of one row each; keys are padded with the null slot."""
        slots = [part.table.slots[first : part.end] for part, first in singles]
        index = pad_sequence(slots, batch_first=True, padding_value=self._null_slot)  # [num_parts, num_keys]
        lengths = torch.tensor([len(s) for s in slots], device=self._device)
        mask = torch.arange(num_keys, device=self._device)[None] < lengths[:, None]
        return Read(slice(0, len(singles)), len(singles), index.flatten(), mask[:, None, None])
