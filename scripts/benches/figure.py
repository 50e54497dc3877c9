"""One ratio as a bench shows it: what was measured, against what, and what it is to reach. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scripts.benches.samples import Comparison
from scripts.benches.table import Table

HEADER = ("figure", "measured", "against", "ratio", "ratio of pairs", "bar", "aim")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a ratio is to reach.

    Attributes:
        bar: what it must reach.
        aim: what it is hoped to reach.
        at_most: whether less is better.
    """

    bar: float
    aim: float
    at_most: bool = False

    def cells(self) -> tuple[str, str]:
        """The two for a table."""
        sign = "<=" if self.at_most else ">="
        return f"{sign} {self.bar:g}", f"{sign} {self.aim:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """How amounts are shown: multiplied by `scale`, with so many digits after the point."""

    name: str
    scale: float = 1.0
    digits: int = 1

    def show(self, amount: float) -> str:
        """An amount with its unit."""
        return f"{amount * self.scale:.{self.digits}f} {self.name}"


MILLISECONDS = Unit(name="ms", scale=1e3)
SECONDS = Unit(name="s", digits=2)
GIGABYTES_A_SECOND = Unit(name="GB/s", scale=1e-9)
TOKENS_A_SECOND = Unit(name="tok/s")
SESSIONS = Unit(name="sessions", digits=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of a bench's table; without a goal it is for information."""

    name: str
    unit: Unit
    compared: Comparison
    goal: Goal | None = None

    def row(self) -> tuple[str, ...]:
        """Its cells under HEADER."""
        found = self.compared
        bar, aim = self.goal.cells() if self.goal else ("", "")
        return (
            self.name,
            self.unit.show(found.subject.median),
            self.unit.show(found.baseline.median),
            f"{found.ratio:.2f}",
            f"{found.low:.2f} to {found.high:.2f}",
            bar,
            aim,
        )

    def as_json(self) -> dict[str, object]:
        """The same for programs; amounts in their base unit."""
        return {"name": self.name, **asdict(self.compared), "goal": asdict(self.goal) if self.goal else None}


def figures_table(figures: Sequence[Figure]) -> Table:
    """One line a figure."""
    return Table(header=HEADER, rows=tuple(figure.row() for figure in figures))
