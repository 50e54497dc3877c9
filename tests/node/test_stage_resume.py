"""The stage table when a session goes on in a later epoch: by whom, from which row, and what is pushed where."""

from dataclasses import replace

import pytest

from node.stage_requests import (
    HEAD,
    NEXT,
    SPARE,
    TAIL,
    beginning,
    kept,
    request,
    resumption,
    rows,
    step,
    table,
)
from osai.core.errors import (
    AssignmentError,
    InvalidRequestError,
    UnavailableError,
    UnknownSessionError,
)
from osai.node.engine.api import Rows, Sampled
from osai.node.stages.stage import (
    Deliver,
    Fail,
    FollowRequest,
    Forward,
    Peer,
    Release,
    Replay,
    Report,
    Return,
)
from osai.node.stages.table import ORPHAN_S, StageTable

REPLAY = Replay(session=1, epoch=2, to_follower=False)
FOLLOW = FollowRequest(session=1, epoch=1, follower=SPARE, follow_from=2)


def running(num_landed: int = 6, owner: int = 7) -> StageTable:
    """A middle stage with a session in epoch 1, whose prompt and two tokens are through."""
    stages = table()
    stages.open(request(), owner=owner, scope="c")
    stages.opened(1, 0, anew=True)
    for part in (rows(position=0, count=4), *(rows(position=i) for i in range(4, num_landed))):
        assert stages.take(part) == "run"
        stages.stepped(step(part))
    return stages


def resumed(num_known: int = 6, position: int = 5, push_from: int = 5) -> StageTable:
    """The same in epoch 2."""
    stages = running()
    stages.open(resumption(2, num_known), owner=7, scope="c")
    stages.opened(1, 5, anew=False)
    assert stages.begins(beginning(2, position, push_from), owner=7)
    stages.begin(beginning(2, position, push_from))
    return stages


def replayed(stages: StageTable, replay: Replay, max_rows: int = 3) -> list[tuple[Peer, Rows]]:
    found = []
    while (pushed := stages.next_replay(replay, max_rows)) is not None:
        found.append(pushed)
    return found


@pytest.mark.parametrize(("num_landed", "num_known", "cut_to"), [(6, 6, 5), (6, 7, 6), (4, 7, 4), (6, 9, 6)])
def test_a_survivor_goes_on_from_what_has_landed_before_the_last_known_token(
    num_landed: int, num_known: int, cut_to: int
) -> None:
    opening = running(num_landed).open(resumption(2, num_known), owner=7, scope="c")
    assert (opening.cut_to, opening.spec.num_known_tokens) == (cut_to, num_known)


def test_a_stage_without_the_session_opens_it_as_new() -> None:
    stages = table()
    opening = stages.open(resumption(2, 6), owner=7, scope="c")
    assert opening.cut_to is None
    stages.opened(1, 0, anew=True)
    assert stages.take(rows(position=0, count=5, epoch=2)) == "hold", "it has not been told where the epoch begins"
    assert stages.begins(beginning(2, 0, 0), owner=7)
    assert stages.begin(beginning(2, 0, 0)) == []
    assert stages.take(rows(position=0, count=5, epoch=2)) == "run"


def test_between_the_epochs_nothing_is_run_or_pushed() -> None:
    stages = running()
    stages.open(resumption(2, 6), owner=7, scope="c")
    assert stages.stepped(step(rows(position=6))) == [], "a step of the older epoch"
    assert stages.span_of(rows(position=6)) is None
    assert stages.take(rows(position=6)) == "drop"
    assert stages.take(rows(position=5, epoch=2)) == "hold"


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_who_was_overtaken_opens_nothing(epoch: int) -> None:
    stages = resumed()
    with pytest.raises(AssignmentError, match=f"in epoch 2 on this node: {epoch} has been overtaken"):
        stages.open(resumption(epoch, 6), owner=8, scope="d")
    with pytest.raises(AssignmentError, match="already open"):
        stages.open(request(epoch=3), owner=8, scope="d")


def test_a_session_that_closed_is_not_opened_in_an_older_epoch() -> None:
    stages = resumed()
    stages.close(1, epoch=2)
    with pytest.raises(AssignmentError, match="was closed in epoch 2: epoch 1 has been overtaken"):
        stages.open(request(epoch=1), owner=7, scope="c")
    assert stages.open(resumption(3, 6), owner=7, scope="c").cut_to is None


def test_an_older_epoch_closes_nothing() -> None:
    stages = resumed()
    assert stages.close(1, epoch=1) == []
    assert stages.num_sessions == 1
    assert stages.close(1, epoch=2) == [Release(session=1)]
    assert resumed().close(1, epoch=0) == [Release(session=1)], "0 stands for any"


def test_what_the_successor_lacks_is_replayed_in_order_and_then_rows_go_as_they_land() -> None:
    stages = resumed(push_from=1)
    assert stages.is_replaying(REPLAY)
    assert stages.next_replay(REPLAY, 3) == (NEXT, rows(position=1, count=3, epoch=2))
    assert stages.take(rows(position=5, epoch=2)) == "run"
    late = rows(position=5, epoch=2)
    assert stages.stepped(step(late)) == [kept((late,), 0)], "it waits behind those of the journal"
    assert replayed(stages, REPLAY) == [(NEXT, rows(position=4, count=2, epoch=2))]
    assert not stages.is_replaying(REPLAY)
    new = rows(position=6, epoch=2)
    keep, forward = stages.stepped(step(new))
    assert keep == kept((new,), 0)
    assert forward == Forward(peer=NEXT, prefill=False, rows=(new,), slices=((0, 1),))


def test_rows_before_those_that_the_successor_lacks_are_kept_and_not_pushed() -> None:
    """A stage that lost its KV and journal runs rows again that the next one has."""
    stages = resumed(position=2, push_from=5)
    part = rows(position=2, count=4, epoch=2)
    assert stages.take(part) == "run"
    keep, forward = stages.stepped(step(part))
    assert keep == kept((part,), 0)
    assert forward == Forward(peer=NEXT, prefill=True, rows=(rows(position=5, epoch=2),), slices=((3, 4),))


def test_rows_come_once_in_an_epoch() -> None:
    stages = resumed()
    assert stages.take(rows(position=5, epoch=2)) == "run"
    assert stages.take(rows(position=5, epoch=2)) == "drop"
    assert stages.take(rows(position=7, epoch=2)) == "run", "a gap is the engine's to refuse"
    assert stages.take(rows(position=6, epoch=2)) == "run"


def test_an_epoch_begins_once_for_its_owner_and_not_past_what_is_here() -> None:
    stages = running()
    with pytest.raises(UnknownSessionError):
        stages.begins(replace(beginning(2, 5, 5), session=9), owner=7)
    stages.open(resumption(2, 6), owner=8, scope="c")
    stages.opened(1, 5, anew=False)
    assert not stages.begins(beginning(2, 5, 5), owner=7)
    assert not stages.begins(beginning(1, 5, 5), owner=8)
    with pytest.raises(InvalidRequestError, match="rows from 6 on would come, and 5 is the next one"):
        stages.begins(beginning(2, 6, 5), owner=8)
    assert stages.begins(beginning(2, 5, 5), owner=8)
    stages.begin(beginning(2, 5, 5))
    assert not stages.begins(beginning(2, 5, 5), owner=8)


def test_a_journal_that_has_lost_its_rows_is_told_and_the_session_stays() -> None:
    stages = resumed(push_from=1)
    stages.next_replay(REPLAY, 3)
    (fail,) = stages.cannot_replay(REPLAY)
    assert isinstance(fail, Fail)
    assert (fail.owner, fail.epoch, fail.open, fail.error.subject) == (7, 2, True, "")
    assert (stages.cannot_replay(REPLAY), stages.next_replay(REPLAY, 3)) == ([], None)
    assert stages.open(resumption(3, 6), owner=7, scope="c").cut_to == 5


def test_a_replay_ends_with_its_epoch_its_peer_and_its_owner() -> None:
    for end in ("epoch", "peer", "owner", "session"):
        stages = resumed(push_from=1)
        if end == "epoch":
            stages.open(resumption(3, 6), owner=7, scope="c")
        elif end == "peer":
            stages.peer_lost("next")
        elif end == "owner":
            stages.owner_lost(7, 0.0)
        else:
            stages.close(1)
        assert (stages.next_replay(REPLAY, 3), stages.is_replaying(REPLAY)) == (None, False)


def test_an_orphan_is_adopted_by_whoever_has_a_newer_epoch() -> None:
    stages = running()
    stages.owner_lost(7, now_s=100.0)
    with pytest.raises(AssignmentError, match="overtaken"):
        stages.open(resumption(1, 6), owner=8, scope="d")
    assert stages.num_sessions == 0
    assert stages.open(resumption(2, 6), owner=8, scope="d").cut_to == 5
    stages.opened(1, 5, anew=False)
    assert stages.num_sessions == 1
    assert stages.num_nameable_blocks(1, 8) == 0, "the KV was another's"
    assert stages.tick(100.0 + ORPHAN_S) == []
    stages.begin(beginning(2, 5, 5))
    (fail,) = stages.peer_lost("next")
    assert isinstance(fail, Fail)
    assert fail.owner == 8


def test_an_orphan_ends_after_a_while_and_sooner_if_its_room_is_needed() -> None:
    stages = running()
    for session, owner in ((2, 7), (3, 8), (4, 9)):
        stages.open(request(session), owner=owner, scope="c")
    stages.owner_lost(8, now_s=90.0)
    stages.owner_lost(7, now_s=100.0)
    assert stages.evict_orphan("other") == []
    assert stages.evict_orphan("m") == [Release(session=3)], "the oldest"
    assert stages.tick(100.0 + ORPHAN_S - 0.1) == []
    assert stages.tick(100.0 + ORPHAN_S) == [Release(session=1), Release(session=2)]
    assert stages.evict_orphan("m") == []
    assert stages.num_sessions == 1


def test_a_follower_gets_the_journal_and_then_every_row_on_one_lane() -> None:
    stages = running()
    (replay,) = stages.follow(FOLLOW, owner=7)
    assert replay == Replay(session=1, epoch=1, to_follower=True)
    assert replayed(stages, replay) == [(SPARE, rows(position=2, count=3)), (SPARE, rows(position=5))]
    part = rows(position=6)
    keep, first, second = stages.stepped(step(part))
    assert keep == kept((part,), 0)
    assert first == Forward(peer=NEXT, prefill=False, rows=(part,), slices=((0, 1),))
    assert second == Forward(peer=SPARE, prefill=True, rows=(part,), slices=((0, 1),))
    assert stages.follow(replace(FOLLOW, follower=None), owner=7) == []
    assert len(stages.stepped(step(rows(position=7)))) == 2


def test_a_lost_follower_is_told_and_the_rest_goes_on() -> None:
    stages = running()
    stages.follow(FOLLOW, owner=7)
    (fail,) = stages.peer_lost("spare")
    assert isinstance(fail, Fail)
    assert (fail.open, fail.error.subject) == (True, "spare")
    assert [type(action) for action in stages.stepped(step(rows(position=6)))] == [type(kept(())), Forward]


def test_who_does_not_own_a_session_does_not_have_it_followed() -> None:
    stages = running()
    assert stages.follow(FOLLOW, owner=8) == []
    assert stages.follow(replace(FOLLOW, epoch=2), owner=7) == []
    with pytest.raises(UnknownSessionError):
        stages.follow(replace(FOLLOW, session=9), owner=7)


def test_a_tail_has_nobody_to_follow() -> None:
    stages = table(4, 6)
    stages.open(request(layers=TAIL, successor=HEAD), owner=7, scope="c")
    (fail,) = stages.follow(FOLLOW, owner=7)
    assert isinstance(fail, Fail)
    assert (type(fail.error), fail.error.subject, fail.open) == (InvalidRequestError, "spare", True)


def test_a_tails_standby_draws_nothing_reports_and_is_promoted() -> None:
    stages = table(4, 6)
    opening = stages.open(request(layers=TAIL, successor=HEAD, follow=True), owner=7, scope="c")
    assert (opening.spec.num_known_tokens, opening.spec.stop_token_ids) == (10, frozenset())
    stages.opened(1, 0, anew=True)
    assert stages.take(rows(position=0, count=5)) == "run"
    token = Sampled(session=1, epoch=1, index=1, token_id=42)
    assert stages.stepped(step(rows(position=0, count=5), sampled=(token,))) == []
    assert stages.tick(0.0) == [Report(owner=7, session=1, epoch=1, position=5)]
    assert stages.tick(1.0) == [], "nothing is new"
    promoted = stages.open(resumption(2, 6, layers=TAIL, successor=HEAD), owner=7, scope="c")
    assert (promoted.cut_to, promoted.spec.num_known_tokens) == (5, 6)
    assert promoted.spec.stop_token_ids == {2}
    stages.opened(1, 5, anew=False)
    assert stages.begin(beginning(2, 5, 5)) == []
    assert stages.take(rows(position=5, epoch=2)) == "run"
    drawn = replace(token, epoch=2, index=2)
    assert stages.stepped(step(rows(position=5, epoch=2), sampled=(token, drawn))) == [
        Deliver(owner=7, tokens=(drawn,)),
        Return(peer=HEAD, rows=(rows(position=6, epoch=2),), token_ids=(42,)),
    ]


def test_a_resumption_may_bring_a_standby_along() -> None:
    stages = running()
    stages.open(resumption(2, 6), owner=7, scope="c")
    stages.opened(1, 5, anew=False)
    follow = FollowRequest(session=1, epoch=2, follower=SPARE, follow_from=3)
    assert stages.begin(beginning(2, 5, 0, follow=follow)) == [REPLAY, replace(REPLAY, to_follower=True)]
    assert replayed(stages, REPLAY, 9) == [(NEXT, rows(position=0, count=5, epoch=2))]
    assert replayed(stages, replace(REPLAY, to_follower=True)) == [(SPARE, rows(position=3, count=2, epoch=2))]


def test_a_span_that_is_withdrawn_takes_its_sessions_along() -> None:
    stages = running()
    stages.open(request(2), owner=8, scope="c")
    stages.owner_lost(8, 0.0)
    fail, first, second = stages.withdraw("m")
    assert isinstance(fail, Fail)
    assert (fail.owner, fail.session, type(fail.error), fail.open) == (7, 1, UnavailableError, False)
    assert (first, second) == (Release(session=1), Release(session=2))
    assert stages.withdraw("m") == []
    with pytest.raises(AssignmentError, match="none of it"):
        stages.open(resumption(2, 6), owner=7, scope="c")
