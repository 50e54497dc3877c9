"""What a chunk plan knows of the source: from when on it is read, and which chunks it has failed to give. Pure."""

import math
from dataclasses import dataclass

from osai.node.weights import bits
from osai.node.weights.plan_actions import PlanConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Of one chunk; the last one's reason."""

    tries: int
    rest_until_s: float
    reason: str


class PlanSource:
    """The source of one load.

    Args:
        absent: why there is none, so that all must come from peers; empty where there is one.

    Attributes:
        opens_s: when this node's first read may be.
    """

    def __init__(self, config: PlanConfig, absent: str) -> None:
        self._config = config
        self._absent = absent
        self._failures: dict[int, Failure] = {}
        self._left: list[tuple[int, float]] = []
        self.opens_s = math.inf

    def leave(self, chunks: int, until_s: float) -> None:
        """Read these not before a moment: others have not heard yet that this node wants them."""
        self._left.append((chunks, until_s))

    def failed(self, chunk: int, reason: str, now_s: float) -> None:
        """A read of a chunk came to nothing."""
        tries = 1 + (self._failures[chunk].tries if chunk in self._failures else 0)
        self._failures[chunk] = Failure(tries=tries, rest_until_s=now_s + tries * self._config.rest_s, reason=reason)

    def readable(self, chunks: int, now_s: float) -> int:
        """Those of some chunks that may be read now."""
        if self._absent or now_s < self.opens_s:
            return 0
        self._left = [(left, until_s) for left, until_s in self._left if now_s < until_s]
        for left, _ in self._left:
            chunks &= ~left
        resting = (
            chunk
            for chunk, failure in self._failures.items()
            if now_s < failure.rest_until_s or failure.tries >= self._config.source_tries
        )
        return chunks & ~bits.of(resting)

    def despair(self, chunk: int, now_s: float) -> str | None:
        """Why there is no hope left for a chunk that no peer has; None where there is some."""
        failure = self._failures.get(chunk)
        if failure is not None and failure.tries >= self._config.source_tries:
            return failure.reason
        return self._absent if self._absent and now_s >= self.opens_s + self._config.patience_s else None
