"""Whose sessions are whose, and whose frames a stage takes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.admission import Peer, Role, SessionParties, check_open
from osai.core.errors import TrustError

OWNER, PREDECESSOR, STRANGER = "aa" * 16, "bb" * 16, "cc" * 16
MIDDLE = SessionParties(owner=OWNER, predecessor=PREDECESSOR, epoch=3, is_head=False)
HEAD = replace(MIDDLE, is_head=True)
EVERYBODY = [(role, member_id) for role in Role for member_id in (OWNER, PREDECESSOR, STRANGER)]


def peer(role: Role, member_id: str) -> Peer:
    return Peer(role=role, member_id=member_id, serial=1, not_after_s=5)


def may_push(parties: SessionParties, *, token_ids: bool) -> list[tuple[Role, str]]:
    allowed = []
    for role, member_id in EVERYBODY:
        try:
            parties.check_push(peer(role, member_id), token_ids=token_ids)
        except TrustError as e:
            assert e.subject == member_id  # noqa: PT017 - what is refused is the subject of the test
        else:
            allowed.append((role, member_id))
    return allowed


def may_close(parties: SessionParties, epoch: int) -> list[tuple[Role, str]]:
    allowed = []
    for role, member_id in EVERYBODY:
        try:
            parties.check_close(peer(role, member_id), epoch)
        except TrustError:
            continue
        allowed.append((role, member_id))
    return allowed


def test_a_stage_takes_hidden_states_from_its_predecessor_alone() -> None:
    assert may_push(MIDDLE, token_ids=False) == [(Role.NODE, PREDECESSOR)]
    assert may_push(MIDDLE, token_ids=True) == []


def test_the_head_takes_token_ids_from_the_tail_and_the_owner() -> None:
    assert may_push(HEAD, token_ids=True) == [(Role.NODE, PREDECESSOR), (Role.COORDINATOR, OWNER)]
    assert may_push(HEAD, token_ids=False) == []


def test_where_no_predecessor_was_named_no_node_pushes() -> None:
    for parties in (replace(MIDDLE, predecessor=""), replace(HEAD, predecessor="")):
        with pytest.raises(TrustError):
            parties.check_push(peer(Role.NODE, STRANGER), token_ids=parties.is_head)
    replace(HEAD, predecessor="").check_push(peer(Role.COORDINATOR, OWNER), token_ids=True)


def test_an_orphan_takes_no_token_ids_of_a_coordinator() -> None:
    assert may_push(HEAD.orphaned(), token_ids=True) == [(Role.NODE, PREDECESSOR)]


def test_the_owner_alone_steers() -> None:
    MIDDLE.check_steer(peer(Role.COORDINATOR, OWNER))
    for role, member_id in EVERYBODY:
        if (role, member_id) != (Role.COORDINATOR, OWNER):
            with pytest.raises(TrustError, match="may not steer"):
                MIDDLE.check_steer(peer(role, member_id))
    with pytest.raises(TrustError):
        MIDDLE.orphaned().check_steer(peer(Role.COORDINATOR, OWNER))


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_nobody_closes_what_another_coordinator_runs(epoch: int) -> None:
    assert may_close(MIDDLE, epoch) == [(Role.COORDINATOR, OWNER)]


def test_any_coordinator_closes_an_orphan_or_what_it_has_overtaken() -> None:
    coordinators = [(Role.COORDINATOR, member_id) for member_id in (OWNER, PREDECESSOR, STRANGER)]
    assert may_close(MIDDLE.orphaned(), 0) == coordinators
    assert may_close(MIDDLE, 4) == coordinators


@pytest.mark.parametrize("role", list(Role))
def test_coordinators_alone_open_and_adopt(role: Role) -> None:
    if role is Role.COORDINATOR:
        check_open(peer(role, STRANGER))
    else:
        with pytest.raises(TrustError, match="may not open sessions"):
            check_open(peer(role, OWNER))


ids = st.sampled_from([OWNER, PREDECESSOR, STRANGER, ""])


@given(ids, ids, st.booleans(), st.booleans(), ids)
def test_a_client_is_never_heard(owner: str, predecessor: str, is_head: bool, token_ids: bool, who: str) -> None:
    parties = SessionParties(owner=owner, predecessor=predecessor, epoch=1, is_head=is_head)
    client = peer(Role.CLIENT, who)
    with pytest.raises(TrustError):
        parties.check_push(client, token_ids=token_ids)
    with pytest.raises(TrustError):
        parties.check_steer(client)
    with pytest.raises(TrustError):
        parties.check_close(client, 9)


@given(ids, ids, st.booleans(), st.sampled_from(Role), ids)
def test_no_stage_takes_what_it_can_not_run(owner: str, predecessor: str, is_head: bool, role: Role, who: str) -> None:
    parties = SessionParties(owner=owner, predecessor=predecessor, epoch=1, is_head=is_head)
    with pytest.raises(TrustError):
        parties.check_push(peer(role, who), token_ids=not is_head)
