"""Whether a call that failed is tried again, when, and how often at most. Pure.

Two bounds work together, as in gRPC's own retries (gRFC A6, "Client Retries", with its retry throttling): each call has
a few attempts with exponentially growing, jittered waits; and all calls of a client share a token bucket, so that the
clients of a swarm that is down do not keep it down.
"""

from collections.abc import Callable
from dataclasses import dataclass

from osai.core.errors import InvalidRequestError, OsaiError, ResourceExhaustedError, UnavailableError

GROWTH = 2.0  # of the wait, from attempt to attempt
MAX_DOUBLINGS = 30  # beyond it only floats would overflow
LATENESS = 0.1  # of a wait that was named: those who were told the same time do not come back in step


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How a client tries again what failed before it gave anything.

    Attributes:
        max_attempts: of one call, the first one counted; 1: nothing is tried again.
        total_s: no attempt begins later than this after the call.
        min_delay_s: the longest wait before the second attempt; it doubles from there on.
        max_delay_s: the longest wait of all, but for those that a coordinator names.
        bucket_tokens: of the budget that all calls of a client share. A failure takes one; while half of them or more
            are gone, nothing is tried again.
        bucket_refill: tokens that a success brings back: at most so many retries for each call that succeeds.

    Raises:
        InvalidRequestError: if a bound is below what makes sense.
    """

    max_attempts: int = 4
    total_s: float = 30.0
    min_delay_s: float = 0.25
    max_delay_s: float = 5.0
    bucket_tokens: float = 10.0
    bucket_refill: float = 0.1

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidRequestError(f"max_attempts is {self.max_attempts}; there is one attempt at least")
        for name in ("min_delay_s", "max_delay_s", "bucket_tokens"):
            if not getattr(self, name) > 0:  # also catches NaN
                raise InvalidRequestError(f"{name} is {getattr(self, name)}; it must be above zero")
        for name in ("total_s", "bucket_refill"):
            if not getattr(self, name) >= 0:
                raise InvalidRequestError(f"{name} is {getattr(self, name)}; it must be 0 or above")


class RetryBudget:
    """The token bucket that all calls of one client share."""

    def __init__(self, retries: Retries) -> None:
        self._most = retries.bucket_tokens
        self._refill = retries.bucket_refill
        self._tokens = retries.bucket_tokens

    @property
    def allows(self) -> bool:
        """Whether something may be tried again."""
        return self._tokens > self._most / 2

    def failed(self) -> None:
        """A call failed in a way that could be tried again."""
        self._tokens = max(0.0, self._tokens - 1.0)

    def succeeded(self) -> None:
        """A call gave something."""
        self._tokens = min(self._most, self._tokens + self._refill)


class Attempts:
    """The attempts of one call.

    Args:
        retries: its bounds.
        budget: the client's.
        jitter: gives numbers in [0, 1).
        now_s: monotonic time at which the call began.
    """

    def __init__(self, retries: Retries, budget: RetryBudget, jitter: Callable[[], float], now_s: float) -> None:
        self._retries = retries
        self._budget = budget
        self._jitter = jitter
        self._until_s = now_s + retries.total_s
        self._num_failed = 0

    def succeeded(self) -> None:
        """It gave something: whoever asked has seen it, and nothing is tried again from here on."""
        self._budget.succeeded()

    def failed(self, error: OsaiError, now_s: float) -> float | None:
        """An attempt failed before it gave anything; seconds until the next one, None: there is none."""
        if not may_pass(error):
            return None
        self._num_failed += 1
        self._budget.failed()
        delay_s = self._delay_s(error)
        spent = self._num_failed >= self._retries.max_attempts or now_s + delay_s > self._until_s
        return None if spent or not self._budget.allows else delay_s

    def remaining_s(self, now_s: float) -> float:
        """How long attempts may still begin."""
        return max(0.0, self._until_s - now_s)

    def _delay_s(self, error: OsaiError) -> float:
        grown_s = self._retries.min_delay_s * GROWTH ** min(self._num_failed - 1, MAX_DOUBLINGS)
        drawn_s = min(self._retries.max_delay_s, grown_s) * (0.5 + self._jitter() / 2)
        if isinstance(error, ResourceExhaustedError):
            return max(drawn_s, error.retry_after_s * (1 + LATENESS * self._jitter()))
        return drawn_s


def may_pass(error: OsaiError) -> bool:
    """Whether the same call may succeed a little later.

    UnavailableError: somebody was lost or can't be reached. ResourceExhaustedError: only where it says when there is
    room; to press the overloaded is what keeps them so. Everything else would fail again, or has waited already.
    """
    if isinstance(error, ResourceExhaustedError):
        return error.retry_after_s > 0
    return isinstance(error, UnavailableError)
