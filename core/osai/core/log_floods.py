"""No peer can fill the disk with warnings about itself (B9 of docs/security.md). It is told the time by the records."""

import logging
from dataclasses import dataclass

MAX_WARNINGS = 20  # of one line of the code, in
WINDOW_S = 60.0


@dataclass(slots=True)
class _Burst:
    begun_s: float
    num_warnings: int = 0
    num_held_back: int = 0


class FloodFilter(logging.Filter):
    """Lets each line of the code warn so often a minute.

    The last warning says that more are not written, the first one afterwards how many there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bursts: dict[tuple[str, int], _Burst] = {}  # by line of code: there are only so many

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written. Errors are: those are ours, not a peer's."""
        if record.levelno != logging.WARNING:
            return True
        place = (record.pathname, record.lineno)
        burst = self._bursts.get(place)
        if burst is None or not 0 <= record.created - burst.begun_s < WINDOW_S:
            if burst is not None and burst.num_held_back:
                _append(record, f"{burst.num_held_back} more warnings of this kind were not written")
            burst = self._bursts[place] = _Burst(record.created)
        burst.num_warnings += 1
        if burst.num_warnings > MAX_WARNINGS:
            burst.num_held_back += 1
            return False
        if burst.num_warnings == MAX_WARNINGS:
            _append(record, f"more of this kind are not written for up to {WINDOW_S:.0f} s")
        return True


def _append(record: logging.LogRecord, words: str) -> None:
    record.msg, record.args = f"{record.getMessage()} ({words})", ()
