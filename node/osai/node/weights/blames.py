"""What peers have done wrong with chunks, for as long as the process runs. Pure."""

from collections import Counter
from enum import Enum

MAX_STRIKES = 12


class Fault(Enum):
    """Why a chunk did not come; the value says it of the peer."""

    WRONG = "sent bytes that are not the chunk's"
    TOO_MUCH = "sent more than the chunk has"
    STALLED = "stopped in the middle of a chunk"
    CUT = "ended in the middle of a chunk"
    NOT_HELD = "does not have a chunk that it said it had"
    LOST = "lost the connection in the middle of a chunk"
    BUSY = "is busy"
    GONE = "can't be reached"

    @property
    def strikes(self) -> int:
        """How much it counts.

        Other bytes, or more of them, never come by accident of the line: that is enough at once. What may be an
        accident counts less, a broken connection least, and what the peer says openly not at all.
        """
        if self in {Fault.WRONG, Fault.TOO_MUCH}:
            return MAX_STRIKES
        if self in {Fault.STALLED, Fault.CUT, Fault.NOT_HELD}:
            return MAX_STRIKES // 3
        return 1 if self is Fault.LOST else 0


class Blames:
    """Strikes by peer; each right chunk takes one off. After MAX_STRIKES a peer is asked no more."""

    def __init__(self) -> None:
        self._strikes: Counter[str] = Counter()
        self.num_blames = 0

    def blame(self, peer: str, fault: Fault) -> bool:
        """Note a fault; whether it counts against the peer."""
        if not fault.strikes:
            return False
        self._strikes[peer] += fault.strikes
        self.num_blames += 1
        return True

    def praise(self, peer: str) -> None:
        """It has given a right chunk."""
        if 0 < self._strikes[peer] < MAX_STRIKES:
            self._strikes[peer] -= 1

    def is_banned(self, peer: str) -> bool:
        """Whether the peer is asked no more."""
        return self._strikes[peer] >= MAX_STRIKES
