"""How much was used in the last minute, or day. Pure."""

import math
from collections import deque
from dataclasses import dataclass

MARGIN_S = 0.001  # so that rounding brings nobody back a moment too early


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSize:
    """A window of time that slides on by slots.

    Attributes:
        slot_s: length of a slot; what was used in one is forgotten at once.
        num_slots: that make up the window.
    """

    slot_s: float
    num_slots: int


MINUTE = WindowSize(slot_s=1.0, num_slots=60)
DAY = WindowSize(slot_s=300.0, num_slots=288)


class Window:
    """Counts use over a sliding window (A5).

    A use is counted from its moment on for as long as the window, and until its slot ends: at most one slot too long,
    never too short. So a limit on what is counted holds in every window, wherever it begins. (A bucket that
    fills up while it is drawn from would let nearly twice the limit through in the first one.)
    """

    def __init__(self, size: WindowSize) -> None:
        self._size = size
        self._slots: deque[tuple[int, int]] = deque()  # number and use, at most num_slots + 1 of them
        self._used = 0

    def used(self, now_s: float) -> int:
        """What is counted now."""
        oldest = self._slot(now_s) - self._size.num_slots
        while self._slots and self._slots[0][0] < oldest:
            self._used -= self._slots.popleft()[1]
        return self._used

    def add(self, amount: int, now_s: float) -> None:
        """Count what is used now."""
        self._used = self.used(now_s) + amount
        slot = self._slot(now_s)
        if self._slots and self._slots[-1][0] == slot:
            amount += self._slots.pop()[1]
        self._slots.append((slot, amount))

    def wait_s(self, amount: int, limit: int, now_s: float) -> float | None:
        """Seconds until `amount` more is within the limit, if nothing else is used; None if it never is."""
        excess = self.used(now_s) + amount - limit
        if excess <= 0:
            return 0.0
        for slot, used in self._slots:
            excess -= used
            if excess <= 0:
                forgotten_s = (slot + self._size.num_slots + 1) * self._size.slot_s
                return forgotten_s - now_s + MARGIN_S
        return None

    def _slot(self, now_s: float) -> int:
        slot = math.floor(now_s / self._size.slot_s)
        return max(slot, self._slots[-1][0]) if self._slots else slot  # a clock that went back forgets nothing
