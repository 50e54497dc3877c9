"""Which coordinator a generation asks next, and when it gives up. Pure."""

from collections.abc import Callable

from osai.client.lost import CoordinatorLostError, nobody_reached
from osai.client.roster import Roster
from osai.core.errors import (
    CancelledError,
    DeadlineExceededError,
    ForbiddenError,
    InvalidRequestError,
    OsaiError,
    ProtocolMismatchError,
    UnauthenticatedError,
    UnknownModelError,
)

MIN_DELAY_S = 0.1  # a coordinator that only lost its connection is back at once
MAX_DELAY_S = 2.0  # one that is being restarted is noticed this late
# of one coordinator: another may take the request
UNFIT: tuple[type[OsaiError], ...] = (ProtocolMismatchError, UnauthenticatedError, ForbiddenError)


class Search:
    """Looks for a coordinator that runs the generation, first and after each loss.

    Args:
        roster: whom there is to ask; it may learn of more meanwhile.
        resume_s: how long the generation may be without a coordinator, all losses since its last token together.
        jitter: gives numbers in [0, 1), so that a lost coordinator's clients do not come back in step.

    Attributes:
        address: whom to ask next.
    """

    def __init__(self, roster: Roster, resume_s: float, jitter: Callable[[], float]) -> None:
        self.address = roster.preferred
        self._roster = roster
        self._resume_s = resume_s
        self._jitter = jitter
        self._lost = False  # a coordinator that had taken the request
        self._lost_at_s: float | None = None  # None while one runs it
        self._spent_s = 0.0  # without a coordinator, until then
        self._num_failures = 0  # since the last token
        self._unreached: dict[str, OsaiError] = {}  # before any took the request
        self._unfit: set[str] = set()  # can't go on with it, however often they are asked

    @property
    def lost(self) -> bool:
        """Whether a coordinator was lost that had taken the request."""
        return self._lost

    def held(self, now_s: float) -> None:
        """The session is open."""
        self._roster.preferred = self.address
        if self._lost_at_s is not None:
            self._spent_s += now_s - self._lost_at_s
            self._lost_at_s = None

    def progressed(self) -> None:
        """A token came: all that went wrong before is forgiven."""
        self._spent_s = 0.0
        self._num_failures = 0

    def remaining_s(self, now_s: float) -> float:
        """How long the search may go on."""
        waited_s = 0.0 if self._lost_at_s is None else now_s - self._lost_at_s
        return max(0.0, self._resume_s - self._spent_s - waited_s)

    def connect_s(self, most_s: float, now_s: float) -> float:
        """How long to wait for the next greeting, `most_s` at most."""
        return min(most_s, max(MIN_DELAY_S, self.remaining_s(now_s))) if self._lost else most_s

    def failed(self, error: OsaiError, now_s: float, *, begun: bool, started: bool) -> float:
        """The coordinator at `address` failed; how many seconds to wait before the next one, then `address`, is asked.

        Args:
            error: why.
            now_s: monotonic time.
            begun: it had been greeted, and taken the request.
            started: it had opened the session.

        Raises:
            OsaiError: what to tell the caller, if nobody else is to be asked.
        """
        broke_off = isinstance(error, CoordinatorLostError)
        if isinstance(error, CancelledError) or (started and not broke_off):
            raise error
        if begun and broke_off:
            self._lost = True
        if not self._lost:
            self._try_each_once(error, begun=begun)
            return 0.0
        if self._lost_at_s is None:
            self._lost_at_s = now_s
        return self._try_around(error, now_s)

    def _try_each_once(self, error: OsaiError, *, begun: bool) -> None:
        refused = isinstance(error, UnauthenticatedError | ForbiddenError)  # nothing has run, wherever it was said
        unheard = isinstance(error, CoordinatorLostError | DeadlineExceededError | ProtocolMismatchError)
        if not refused and (begun or not unheard):
            raise error
        self._unreached[self.address] = error
        rest = [address for address in self._roster.ring(self.address) if address not in self._unreached]
        if not rest:
            unfit = (failure for failure in self._unreached.values() if isinstance(failure, UNFIT))
            raise next(unfit, nobody_reached(self._unreached)) from error
        self.address = rest[0]

    def _try_around(self, error: OsaiError, now_s: float) -> float:
        if isinstance(error, (UnknownModelError, *UNFIT)):
            self._unfit.add(self.address)
        elif isinstance(error, InvalidRequestError):
            raise error
        others = [*self._roster.ring(self.address)[1:], self.address]
        fit = [address for address in others if address not in self._unfit]
        if not fit or not self.remaining_s(now_s):
            raise self._given_up(error) from error
        self.address = fit[0]
        self._num_failures += 1
        num_rounds, rest = divmod(self._num_failures, len(fit))
        if rest:
            return 0.0
        delay_s = min(MAX_DELAY_S, MIN_DELAY_S * 2.0 ** min(num_rounds - 1, 10)) * (0.5 + self._jitter() / 2)
        return min(delay_s, self.remaining_s(now_s))

    def _given_up(self, error: OsaiError) -> OsaiError:
        if not self._resume_s or not isinstance(error, (CoordinatorLostError, *UNFIT)):
            return error
        return CoordinatorLostError(
            f"the coordinator was lost, and none goes on with the generation (resume_s is {self._resume_s:g}); "
            f"the last try: {error.message}"
        )
