"""The ways of one session's rows, to the successor and to its standby: begun, caught up with, lost. Pure."""

from osai.core.errors import InvalidRequestError, OsaiError, UnavailableError
from osai.node.engine.api import Rows
from osai.node.stages.sessions import StageSession, Way
from osai.node.stages.stage import Action, Fail, FollowRequest, Peer, Replay


def follow(entry: StageSession, request: FollowRequest) -> list[Action]:
    """Push rows to a standby of the successor too, those in the journal first; or to none any more."""
    entry.follower = None
    if request.follower is None:
        return []
    if entry.successor is None or entry.is_tail:
        subject = request.follower.node_id
        error = InvalidRequestError("this stage pushes nothing that a standby could follow", subject=subject)
        return told(entry, error, is_open=True)
    entry.follower = Way(request.follower, request.follow_from, replaying=True)
    return [Replay(session=entry.number, epoch=entry.epoch, to_follower=True)]


def next_rows(entry: StageSession, replay: Replay, max_rows: int) -> tuple[Peer, Rows] | None:
    """The next rows of a replay, which then count as pushed; None if it has caught up, or its way is gone."""
    way = entry.follower if replay.to_follower else entry.successor
    if way is None or not way.replaying or entry.owner is None:
        return None
    start, end = way.next_row, min(way.next_row + max_rows, entry.landed)
    if start >= end:
        way.replaying = False
        return None
    way.next_row = end
    return way.peer, Rows(session=entry.number, epoch=entry.epoch, position=start, count=end - start)


def is_replaying(entry: StageSession, replay: Replay) -> bool:
    """Whether a replay has not caught up yet, and its way is still there."""
    way = entry.follower if replay.to_follower else entry.successor
    return way is not None and way.replaying and entry.owner is not None


def cannot_replay(entry: StageSession, replay: Replay) -> list[Action]:
    """The journal no longer holds what a replay is to push."""
    way = entry.follower if replay.to_follower else entry.successor
    if way is None or not way.replaying:
        return []
    words = "the journal no longer holds rows that are to be pushed again: they must be run again"
    subject = way.peer.node_id if replay.to_follower else ""
    return _lost(entry, way, UnavailableError(words, subject=subject))


def lost_to(entry: StageSession, node_id: str, error: OsaiError) -> list[Action]:
    """A peer takes no rows: those that go there go nowhere until a later epoch, and what is here stays."""
    ways = [way for way in (entry.successor, entry.follower) if way is not None and way.peer.node_id == node_id]
    return [action for way in ways for action in _lost(entry, way, error)]


def told(entry: StageSession, error: OsaiError, *, is_open: bool) -> list[Action]:
    """What the owner is told of, if there is one."""
    if entry.owner is None:
        return []
    return [Fail(owner=entry.owner, session=entry.number, epoch=entry.epoch, error=error, open=is_open)]


def _lost(entry: StageSession, way: Way, error: OsaiError) -> list[Action]:
    if way is entry.follower:
        entry.follower = None
    else:
        entry.successor = None
    return told(entry, error, is_open=True)
