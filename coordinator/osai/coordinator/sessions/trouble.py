"""Why a session is looking for another pipeline, since when, and how long it may go on doing so. Pure."""

from osai.coordinator.sessions.config import SupervisionConfig
from osai.core.errors import InternalError, NotCoveredError, OsaiError, PeerError, UnavailableError, UnknownSessionError


class Trouble:
    """From the first sign of trouble to the next epoch's beginning; then it is `over`, and may begin anew."""

    def __init__(self, config: SupervisionConfig) -> None:
        self._config = config
        self._num_fruitless = 0  # epochs that brought no token
        self._notice_s = 0.0
        self.over()

    def over(self) -> None:
        """An epoch has begun."""
        self.since_s: float | None = None
        self.reason = ""
        self._error: OsaiError | None = None
        self._stranded_s: float | None = None

    def progress(self) -> None:
        """A token has come."""
        self._num_fruitless = 0

    def began(self, reason: str, now_s: float, error: OsaiError | None = None) -> None:
        """The session can't go on as it is; the first reason is the one that clients are told."""
        if self.since_s is None:
            self.since_s, self.reason, self._notice_s = now_s, reason, now_s
        self._error = error or self._error

    def fruitless(self) -> bool:
        """An epoch ends without a token, perhaps; whether there were too many in a row."""
        self._num_fruitless += 1
        return self._num_fruitless > self._config.max_reroutes

    @property
    def is_hopeless(self) -> bool:
        """Whether there is no use in waiting for nodes that are there to be better off."""
        return self._error is not None and is_hopeless(self._error)

    def strand(self, now_s: float) -> float:
        """There is no pipeline, or not all of one opened; for how many seconds more this is put up with."""
        if self._stranded_s is None:
            self._stranded_s = now_s
        return self._stranded_s + self._config.coverage_wait_s - now_s

    def notice_due(self, now_s: float) -> bool:
        """Whether the client is to hear now that the session waits."""
        if now_s < self._notice_s:
            return False
        self._notice_s = now_s + self._config.notice_s
        return True

    def verdict(self, num_tokens: int, gap: NotCoveredError | None = None) -> OsaiError:
        """What the session ends with: the stage's own word where waiting would have been of no use."""
        if self._error is not None and is_hopeless(self._error):
            return self._error
        told = f"{num_tokens} tokens were generated, and the session can be resumed"
        waited = f"waited for {self._config.coverage_wait_s:g} s"
        problem: OsaiError
        if gap is not None:
            problem = NotCoveredError(f"{gap.message} ({self.reason}; {waited}; {told})")
        else:
            why = f"; at last: {self._error.message}" if self._error and self._error.message != self.reason else ""
            problem = UnavailableError(f"{self.reason}, and no other pipeline opened{why} ({waited}; {told})")
        problem.__cause__ = self._error  # for the log: it may hold the node's address, which clients are not told
        problem.subject = self._error.subject if self._error else ""
        return problem

    def exhausted(self, num_tokens: int) -> OsaiError:
        """What the session ends with after too many epochs without a token."""
        problem = UnavailableError(
            f"{self.reason}; {self._config.max_reroutes} pipelines in a row brought no token "
            f"({num_tokens} tokens were generated, and the session can be resumed)"
        )
        problem.__cause__ = self._error
        return problem


def is_hopeless(error: OsaiError) -> bool:
    """Whether the same node would fail in the same way again, however long one waits."""
    return type(error) is InternalError or (isinstance(error, PeerError) and not isinstance(error, UnknownSessionError))
