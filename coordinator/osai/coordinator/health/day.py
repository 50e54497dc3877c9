"""The last 24 h of a node or a model, as the page's small strip shows it. Pure."""

from dataclasses import dataclass

from osai.coordinator.health.strip import lines
from osai.coordinator.history.past import Day

_UNKNOWN, _NEVER, _PARTLY, _ALWAYS = range(4)
_FEW = 2  # minutes that may be missing of a half hour: samples fall a little beside the minute


@dataclass(frozen=True, slots=True, kw_only=True)
class DayStrip:
    """24 h in half hours.

    Attributes:
        always, partly, never: half hours, as the `d` of an SVG path; what was not watched is in none.
        share: of the minutes that were watched, in percent; None: none was.
    """

    always: str
    partly: str
    never: str
    share: float | None

    @property
    def words(self) -> str:
        """The share in words."""
        if self.share is None:
            return "not known yet"
        return f"{self.share:.0f}%" if self.share in {0, 100} else f"{min(max(self.share, 0.1), 99.9):.1f}%"


def day_strip(day: Day, watched: Day) -> DayStrip:
    """The strip of the minutes of each half hour, of those that this coordinator has watched."""
    cells = [_cell(there, seen) for there, seen in zip(day, watched, strict=True)]
    num_watched = sum(watched)
    num_there = sum(min(there, seen) for there, seen in zip(day, watched, strict=True))
    return DayStrip(
        always=lines(cells, _ALWAYS, 1),
        partly=lines(cells, _PARTLY, 1.5),
        never=lines(cells, _NEVER, 1.8),
        share=100 * num_there / num_watched if num_watched else None,
    )


def _cell(there: int, seen: int) -> int:
    if not seen:
        return _UNKNOWN
    if not there:
        return _NEVER
    return _ALWAYS if there >= seen - _FEW else _PARTLY
