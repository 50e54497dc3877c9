"""Who has refused a new session, and which pipeline to try next."""

from osai.coordinator.api import StageView
from osai.coordinator.sessions.route_finder import RouteFinder
from osai.core.errors import (
    AssignmentError,
    InvalidRequestError,
    NotCoveredError,
    OsaiError,
    ResourceExhaustedError,
    UnavailableError,
)

MAX_ATTEMPTS = 16  # pipelines tried in a row until one opens: a record may outlive its node, or its KV, by some seconds
# one node's trouble, not the request's; what one can never fit, a larger one may
TRY_ELSEWHERE = (UnavailableError, ResourceExhaustedError, AssignmentError, InvalidRequestError)


class Refusals:
    """Of one session, before it has begun."""

    def __init__(self) -> None:
        self._errors: dict[str, OsaiError] = {}  # node id -> why it could not open the session

    def add(self, error: OsaiError) -> None:
        """A node, the error's subject, has refused."""
        self._errors[error.subject] = error

    def next_pipeline(self, routes: RouteFinder) -> tuple[StageView, ...] | None:
        """The next one to try; none where those that have refused say better what is wrong.

        Raises:
            NotCoveredError: if nobody has refused, and there is no pipeline at all.
        """
        if len(self._errors) == MAX_ATTEMPTS:
            return None
        try:
            return routes.first(self._errors)
        except NotCoveredError:
            if self._errors:
                return None
            raise

    @property
    def tells_of_change(self) -> bool:
        """Whether a node serves something else than was told of it: the news are on their way."""
        return any(isinstance(error, AssignmentError) for error in self._errors.values())

    def forget_passing(self) -> bool:
        """Nodes that were lost may be back, others may soon be known better: these are asked again.

        Whether nobody has refused for another reason.
        """
        passing = UnavailableError | AssignmentError
        self._errors = {key: error for key, error in self._errors.items() if not isinstance(error, passing)}
        return not self._errors

    def verdict(self) -> OsaiError:
        """The refusal to act on: want of KV passes, so it goes before what does not."""
        errors = list(self._errors.values())
        return next((error for error in errors if isinstance(error, ResourceExhaustedError)), errors[-1])
