"""The loss of a coordinator, told apart from errors that a coordinator sends."""

from collections.abc import Mapping

from osai.core.errors import OsaiError, UnavailableError


class CoordinatorLostError(UnavailableError):
    """A coordinator can't be reached or broke off: another one may be asked the same."""


def nobody_reached(failures: Mapping[str, OsaiError]) -> OsaiError:
    """What to tell where every coordinator has failed. `failures`: why, by address, at least one."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    reasons = "; ".join(f"{address}: {error.message}" for address, error in failures.items())
    return CoordinatorLostError(f"none of {len(failures)} coordinators can be reached: {reasons}")
