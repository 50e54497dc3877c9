"""What makes a session leave its pipeline, as it is told to clients and to the log. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from osai.core.errors import DeadlineExceededError, OsaiError, UnavailableError

NOBODY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """One reason for another epoch.

    Attributes:
        reason: for people; it names no addresses.
        error: what the session ends with, should it end.
        suspects: nodes of which one may be at fault.
    """

    reason: str
    error: OsaiError
    suspects: frozenset[str] = NOBODY


def lost(node_id: str, reason: OsaiError) -> Setback:
    """The link to a node broke."""
    problem = UnavailableError(f"node {node_id} was lost", subject=node_id)
    problem.__cause__ = reason  # for the log: it holds the node's address, which clients are not told
    return Setback(reason=problem.message, error=problem)


def failed(node_id: str, error: OsaiError, *, is_edge: bool) -> Setback:
    """A node can't go on; `is_edge`: for it does not reach its successor."""
    if is_edge:
        return Setback(reason=f"node {node_id} has lost node {error.subject}", error=error)
    return Setback(reason=f"node {node_id} can't go on: {error.message}", error=error)


def late(node_ids: Iterable[str]) -> Setback:
    """Nodes have not opened the session in time."""
    names = sorted(node_ids)
    problem = UnavailableError(f"not opened in time by {', '.join(names)}", subject=names[0])
    return Setback(reason=problem.message, error=problem)


def overdue(num_tokens: int, suspects: frozenset[str]) -> Setback:
    """No token has come for too long."""
    problem = DeadlineExceededError(f"no token came in time after {num_tokens}; the pipeline may be overloaded")
    return Setback(reason=problem.message, error=problem, suspects=suspects)
