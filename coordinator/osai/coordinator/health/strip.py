"""A model's layers by number of replicas: what the page's strip shows. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from osai.core.layers import LayerRange

MAX_CELLS = 128  # as many as a phone can show; every model of today has fewer layers
MANY = 3  # replicas from which one more makes no visible difference; also the strip's height


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring layers with equally many replicas."""

    layers: LayerRange
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """What is drawn and what is said of one model's layers.

    Attributes:
        cells: replicas of each cell, at most MANY; one cell a layer, or the least of several layers where there
            are more than MAX_CELLS.
        runs: all layers, in order.
    """

    cells: tuple[int, ...]
    runs: tuple[Run, ...]

    @property
    def missing(self) -> tuple[LayerRange, ...]:
        """Ranges that no ready node hosts."""
        return tuple(run.layers for run in self.runs if run.replicas == 0)

    @property
    def single(self) -> tuple[LayerRange, ...]:
        """Ranges whose only node must not leave."""
        return tuple(run.layers for run in self.runs if run.replicas == 1)

    @property
    def paths(self) -> tuple[tuple[int, str], ...]:
        """What is drawn: a line along the cells of each level, as the `d` of an SVG path.

        A line is as thick as its level, so that thin places are low; one of level 0 is drawn around the whole height.
        """
        middles = {level: MANY - level / 2 if level else MANY / 2 for level in range(MANY + 1)}
        return tuple((level, lines(self.cells, level, middles[level])) for level in sorted(set(self.cells)))


def strip_of(replicas: Sequence[int]) -> Strip:
    """The strip of a model's replicas, layer by layer."""
    num_cells = min(len(replicas), MAX_CELLS)
    edges = [cell * len(replicas) // num_cells for cell in range(num_cells + 1)] if num_cells else []
    cells = (min(*replicas[start:end], MANY) for start, end in pairwise(edges))
    runs = []
    start = 0
    for count, group in groupby(replicas):
        end = start + len(list(group))
        runs.append(Run(layers=LayerRange(start, end), replicas=count))
        start = end
    return Strip(cells=tuple(cells), runs=tuple(runs))


def lines(cells: Iterable[int], level: int, y: float) -> str:
    """SVG path data: a horizontal line at `y` along each run of cells of that level, a cell being 1 wide."""
    parts, start = [], 0
    for count, group in groupby(cells):
        length = len(list(group))
        if count == level:
            parts.append(f"M{start} {y:g}h{length}")
        start += length
    return "".join(parts)
