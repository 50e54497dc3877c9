"""The log of one run's events: a digest by which runs are compared, and its lines if they are asked for."""

from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

DIGEST_BYTES = 12


class Trace:
    """Takes events as they happen.

    Args:
        clock: gives simulated seconds.
        keep: keep the lines too, for people.
    """

    def __init__(self, clock: Callable[[], float], *, keep: bool = False) -> None:
        self._clock = clock
        self._hash = blake2b(digest_size=DIGEST_BYTES)
        self.lines: list[str] | None = [] if keep else None
        self.counts: Counter[str] = Counter()

    def note(self, kind: str, text: str) -> None:
        """Something has happened."""
        self.counts[kind] += 1
        line = f"{self._clock():12.6f} {kind} {text}"
        self._hash.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Of all that has happened: equal runs have equal ones."""
        return self._hash.hexdigest()
