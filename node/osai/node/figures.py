"""What a running node says of itself in one line. Pure: it is told the time."""

from collections import deque
from dataclasses import dataclass

RATE_S = 10.0  # over which tokens a second are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A node at one moment.

    Attributes:
        num_tokens: that went through its spans since it started.
        num_peers: links that nodes and coordinators hold to it.
    """

    num_sessions: int
    num_tokens: int
    num_peers: int


class Rates:
    """Tokens a second of late."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def tokens_a_second(self, figures: Figures, now_s: float) -> float:
        """Over the last RATE_S, or since the first look if that was later; 0 at the first look."""
        self._seen.append((now_s, figures.num_tokens))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - RATE_S:  # noqa: PLR2004 - one older than that stays
            self._seen.popleft()
        (then_s, then), (_, newest) = self._seen[0], self._seen[-1]
        return (newest - then) / (now_s - then_s) if now_s > then_s else 0.0


def line_of(figures: Figures, tokens_a_second: float) -> str:
    """Sessions, tokens a second, served so far, peers."""
    return (
        f"{_count(figures.num_sessions, 'session')}, {tokens_a_second:.1f} tokens/s, "
        f"{figures.num_tokens:,} tokens served, {_count(figures.num_peers, 'peer')}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
