"""One packed step: which rows belong to whom, where their keys and values lie, and which keys each row may see."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from osai.node.engine.block_table import BlockTable
from osai.node.engine.kv_reads import GroupLayout
from osai.node.engine.windows import Window


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one session: its tokens [position, position + count).

    Attributes:
        table: where its tokens lie in the pages of the first group of layers.
        more_tables: and in those of the others.
    """

    table: BlockTable
    position: int
    count: int
    more_tables: tuple[BlockTable, ...] = ()

    @property
    def end(self) -> int:
        """Position after the last row."""
        return self.position + self.count

    @property
    def tables(self) -> tuple[BlockTable, ...]:
        """Of every group of layers."""
        return (self.table, *self.more_tables)


class StepLayout:
    """Parts of a packed row [1, num_tokens], those of one row first.

    Attributes:
        parts: the sessions' rows, in packed order.
        num_tokens: packed rows.
        num_single: parts of one row.
        longest: the largest end of all parts.
        positions: int64 [num_tokens], of each packed row in its session.
    """

    def __init__(self, parts: Sequence[Part], *, null_slot: int, device: torch.device | str = "cpu") -> None:
        self.parts = tuple(parts)
        self.null_slot, self.device = null_slot, device
        self.num_tokens = sum(part.count for part in parts)
        self.num_single = next((i for i, part in enumerate(parts) if part.count > 1), len(parts))
        self.longest = max(part.end for part in parts)
        spans = [torch.tensor([part.position for part in parts[: self.num_single]], dtype=torch.int64)]
        spans += [torch.arange(part.position, part.end) for part in parts[self.num_single :]]
        self.positions = torch.cat(spans).to(device)
        self._groups: dict[int, GroupLayout] = {}
        self._masks: dict[tuple[Window, int, int, int], torch.Tensor] = {}

    def group(self, index: int) -> GroupLayout:
        """Where the rows lie in the pages of a group of layers, built once a step."""
        if index not in self._groups:
            self._groups[index] = GroupLayout(self, [part.tables[index] for part in self.parts])
        return self._groups[index]

    def mask(self, window: Window, part: Part, first: int) -> torch.Tensor:
        """Bool [part.count, part.end - first]: which of a part's queries see which of its keys from `first` on."""
        key = (window, part.position, part.end, first)
        if key not in self._masks:
            queries = torch.arange(part.position, part.end, device=self.device)
            self._masks[key] = window.mask(queries, torch.arange(first, part.end, device=self.device))
        return self._masks[key]
