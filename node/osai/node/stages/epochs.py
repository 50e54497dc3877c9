"""An epoch of one session: entered, begun, and which of the rows that come in it are run. Pure."""

from typing import Literal

from osai.core.errors import InvalidRequestError
from osai.node.engine.api import Rows
from osai.node.stages import ways as stage_ways
from osai.node.stages.sessions import StageSession, Way
from osai.node.stages.stage import Action, HostedSpan, OpenRequest, Replay, ResumeRequest


def entered(request: OpenRequest, span: HostedSpan, owner: int, scope: str, old: StageSession | None) -> StageSession:
    """The session as its new epoch finds it; `old`: as the one before left it, if it is here."""
    return StageSession(
        request=request,
        span=span,
        scope=old.scope if old else scope,
        owner=owner,
        owner_scope=scope,
        num_known=request.num_known,
        waiting=request.resume and not request.follow,
        successor=None if request.resume or request.follow else Way(request.successor, 0),
    )


def begins(entry: StageSession, request: ResumeRequest, owner: int) -> bool:
    """See StageTable.begins."""
    if entry.owner != owner or entry.epoch != request.epoch or not entry.waiting:
        return False
    if request.position > entry.landed:
        raise InvalidRequestError(f"rows from {request.position} on would come, and {entry.landed} is the next one")
    return True


def begin(entry: StageSession, request: ResumeRequest) -> list[Action]:
    """See StageTable.begin."""
    entry.waiting, entry.landed, entry.due = False, request.position, request.position
    lacks = not entry.is_tail and request.push_from < request.position
    entry.successor = Way(entry.request.successor, request.push_from, replaying=lacks)
    replays: list[Action] = []
    if lacks:
        replays.append(Replay(session=request.session, epoch=request.epoch, to_follower=False))
    return replays + (stage_ways.follow(entry, request.follow) if request.follow else [])


def take(entry: StageSession | None, rows: Rows) -> Literal["run", "hold", "drop"]:
    """See StageTable.take."""
    if entry is None or rows.epoch != entry.request.epoch or entry.owner is None:
        return "drop"
    if entry.waiting:
        return "hold"
    entry.before = entry.landed, entry.due
    if entry.due is None:  # all stages' rows begin where the first of them lacks KV
        entry.landed = min(entry.landed, rows.position)
    elif rows.position != entry.due:
        return "drop" if rows.position < entry.due else "run"
    entry.due = rows.position + rows.count
    return "run"
