"""Where each stage goes on when an epoch begins: every stage is to get every row exactly once, in order. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from osai.core.errors import PeerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a stage stands: it has rows [0, position), and can push outputs of rows [journal_begin, position) again."""

    position: int
    journal_begin: int


def check_standing(standing: Standing, last: int) -> None:
    """Refuse what no stage can say whose session was cut to row `last`, which is always run again.

    Raises:
        PeerError: naming the numbers.
    """
    if not 0 <= standing.journal_begin <= standing.position <= last:
        raise PeerError(
            f"claims rows before {standing.position} and a journal from {standing.journal_begin} on; "
            f"{last} rows may be there at most"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStart:
    """A stage computes rows from `position` on, and pushes outputs of rows from `push_from` on.

    Where `push_from` is less, its journal has those in between; where it is more, its successor has what is not pushed.
    """

    position: int
    push_from: int


def plan_resume(standings: Sequence[Standing]) -> tuple[StageStart, ...]:
    """Where each stage goes on, head first; the head is given token ids from its position on.

    A stage goes on where it stands, if its journal has what its successor lacks. Else it computes that again, from its
    own predecessor's outputs: the further ahead a stage is for which a predecessor must step back, the more is computed
    again, at worst everything from the first missing row on.
    """
    starts = [standings[-1].position]
    for standing in reversed(standings[:-1]):
        due = starts[0]
        has_it = standing.position <= due or standing.journal_begin <= due
        starts.insert(0, standing.position if has_it else due)
    pushed = [*starts[1:], starts[-1]]
    return tuple(StageStart(position=at, push_from=first) for at, first in zip(starts, pushed, strict=True))
