"""Where the rows of a packed step lie in the pages of one group of layers, and what each attention call reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from osai.node.engine.block_table import BlockTable
from osai.node.engine.windows import Window

if TYPE_CHECKING:
    from osai.node.engine.layout import Part, StepLayout

# Up to this many key rows, single rows of all sessions share one attention call over gathered keys, which saves calls;
# above it, each session's keys are read where they lie, which saves copying them. Measured on a CPU.
MAX_GATHERED_KEYS = 2048


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


@dataclass(frozen=True, slots=True)
class SeenKeys:
    """The keys that each packed row sees.

    Attributes:
        slots: int64, the slots of each part's keys, one part after the other.
        begins: int64 [num_tokens], where in `slots` the keys of each row begin.
        ends: int64 [num_tokens], and where they end.
        max_count: the most keys of a row.
    """

    slots: torch.Tensor
    begins: torch.Tensor
    ends: torch.Tensor
    max_count: int


class GroupLayout:
    """A step in the pages of one group of layers.

    Attributes:
        slots: int64 [num_tokens], where each row's key and value go.
    """

    def __init__(self, step: "StepLayout", tables: Sequence[BlockTable]) -> None:
        self._step, self._tables = step, tables
        self.slots = torch.cat([t.slots(part.position, part.end) for part, t in zip(step.parts, tables, strict=True)])
        self._reads: dict[tuple[Window, bool], tuple[Read, ...]] = {}
        self._seen: dict[tuple[Window, bool], SeenKeys] = {}
        self._past: torch.Tensor | None = None

    @property
    def past_slots(self) -> torch.Tensor:
        """int64 [sum of the parts' ends], the slots of every session's whole past, one session after the other."""
        if self._past is None:
            self._past = torch.cat([t.slots(0, part.end) for part, t in self._parts()])
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

    def seen(self, window: Window, *, from_past: bool = False) -> SeenKeys:
        """The keys that each row sees, built once a step for each kind of window; arguments as of `reads`."""
        key = (window, from_past)
        if key not in self._seen:
            self._seen[key] = self._see(window, from_past=from_past)
        return self._seen[key]

    def _see(self, window: Window, *, from_past: bool) -> SeenKeys:
        pieces, shifts, length, past = [], [], 0, 0  # shift: from a position to its place in the slots
        for part, table in self._parts():
            first = window.first_key(part.position)
            pieces.append(torch.arange(past + first, past + part.end) if from_past else table.slots(first, part.end))
            shifts.append(length - first)
            length += part.end - first
            past += part.end
        counts = torch.tensor([part.count for part in self._step.parts])
        shift = torch.tensor(shifts).repeat_interleave(counts).to(self._step.device)  # [num_tokens]
        begins = window.first_keys(self._step.positions) + shift
        ends = self._step.positions + 1 + shift
        return SeenKeys(torch.cat(pieces), begins, ends, int((ends - begins).max()))

    def _parts(self) -> "Iterator[tuple[Part, BlockTable]]":
        return zip(self._step.parts, self._tables, strict=True)

    def _singles(self) -> "list[tuple[Part, BlockTable]]":
        return list(self._parts())[: self._step.num_single]

    def _slot_reads(self, window: Window) -> Iterator[Read]:
        step = self._step
        single = step.parts[: step.num_single]
        num_keys = max((part.end - window.first_key(part.position) for part in single), default=0)
        gathers = step.num_single > 1 and step.num_single * num_keys <= MAX_GATHERED_KEYS
        if gathers:
            yield self._gather(window, num_keys)
        row = 0
        for i, (part, table) in enumerate(self._parts()):
            if i >= step.num_single or not gathers:
                first = max(table.first, window.first_read(part.position))
                run = table.run(first, part.end)
                keys = table.slots(first, part.end) if run is None else run
                yield self._one(part, window, row, first, keys)
            row += part.count

    def _past_reads(self, window: Window) -> Iterator[Read]:
        row = past = 0
        for part in self._step.parts:
            yield self._one(part, window, row, 0, slice(past, past + part.end))
            row += part.count
            past += part.end

    def _one(self, part: "Part", window: Window, row: int, first: int, keys: slice | torch.Tensor) -> Read:
        """The call of one part, whose keys begin at position `first`."""
        mask, is_causal = None, False
        if part.position == 0 and part.count > 1 and window.first_key(part.end - 1) == 0:
            is_causal = True
        elif part.count > 1 or window.first_key(part.position) > first:
            mask = self._step.mask(window, part, first)
        return Read(slice(row, row + part.count), 1, keys, mask, is_causal)

    def _gather(self, window: Window, num_keys: int) -> Read:
        """One call for all sessions of one row each; keys are padded with the null slot."""
        slots = [t.slots(window.first_key(part.position), part.end) for part, t in self._singles()]
        index = pad_sequence(slots, batch_first=True, padding_value=self._step.null_slot)  # [num_parts, num_keys]
        lengths = torch.tensor([len(s) for s in slots], device=self._step.device)
        mask = torch.arange(num_keys, device=self._step.device)[None] < lengths[:, None]
        return Read(slice(0, len(slots)), len(slots), index.flatten(), mask[:, None, None])
