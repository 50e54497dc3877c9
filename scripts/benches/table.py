"""Tables of figures, for a terminal and for Markdown. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from osai.core.errors import InvalidRequestError

GAP = "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text under a header; the first column is a name, the others are figures.

    Raises:
        InvalidRequestError: if a row has more or fewer cells than the header.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise InvalidRequestError(f"a row has {len(row)} cells under {len(self.header)} columns: {row}")

    def plain(self) -> str:
        """For a terminal: names to the left, figures to the right, a rule below the header."""
        widths = self._widths(lambda cell: cell)
        rule = tuple("-" * width for width in widths)
        return "\n".join(GAP.join(_aligned(row, widths)).rstrip() for row in (self.header, rule, *self.rows))

    def markdown(self) -> str:
        """A pipe table."""
        widths = [max(width, 3) for width in self._widths(_escaped)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines = [[_escaped(cell) for cell in row] for row in (self.header, *self.rows)]
        lines.insert(1, rule)
        return "\n".join(f"| {' | '.join(_aligned(line, widths))} |" for line in lines)

    def _widths(self, shown: Callable[[str], str]) -> list[int]:
        return [max(len(shown(cell)) for cell in column) for column in zip(self.header, *self.rows, strict=True)]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    name, *figures = row
    return [
        name.ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)),
    ]


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")
