"""Who may say what of which session to a node, in a private swarm and in a public one."""

import pytest

from osai.core.admission import Peer, Role
from osai.core.errors import TrustError
from osai.node.parties import Parties
from osai.proto import common_pb2, edge_pb2

Message = edge_pb2.LinkMessage
SESSION = 7
OWNER, RIVAL, BEFORE, OTHER, CLIENT = 1, 2, 3, 4, 5  # links
HIDDEN, IDS = common_pb2.DTYPE_BFLOAT16, common_pb2.DTYPE_INT32


def peer(name: str, role: Role) -> Peer:
    return Peer(role=role, member_id=name, serial=1, not_after_s=2**40)


def opening(epoch: int = 1, start: int = 4) -> edge_pb2.OpenSession:
    span = common_pb2.LayerRange(start=start, end=8)
    return edge_pb2.OpenSession(session=SESSION, epoch=epoch, span=span, predecessor="before")


def private(start: int = 4) -> Parties:
    """A node in whose pipeline `before` comes before it; the session is open."""
    it = Parties()
    for link, name, role in (
        (OWNER, "owner", Role.COORDINATOR),
        (RIVAL, "rival", Role.COORDINATOR),
        (BEFORE, "before", Role.NODE),
        (OTHER, "other", Role.NODE),
        (CLIENT, "client", Role.CLIENT),
    ):
        it.attach(link, peer(name, role))
    it.opened(OWNER, opening(start=start))
    return it


def pushes(it: Parties, link: int, dtype: common_pb2.DType.ValueType = HIDDEN, epoch: int = 1) -> bool:
    try:
        it.check_push(link, edge_pb2.Frame(session=SESSION, epoch=epoch, count=1), dtype)
    except TrustError:
        return False
    return True


def says(it: Parties, link: int, message: Message) -> bool:
    try:
        it.check_session(link, message)
    except TrustError:
        return False
    return True


def steering() -> list[Message]:
    return [
        Message(resume=edge_pb2.ResumeSession(session=SESSION, epoch=1)),
        Message(follow=edge_pb2.FollowSession(session=SESSION, epoch=1)),
    ]


def closing(epoch: int) -> Message:
    return Message(close=edge_pb2.CloseSession(session=SESSION, epoch=epoch))


def test_rows_come_from_the_node_before_and_from_nobody_else() -> None:
    it = private()
    assert [link for link in (OWNER, RIVAL, BEFORE, OTHER, CLIENT) if pushes(it, link)] == [BEFORE]
    assert not pushes(it, BEFORE, IDS)


def test_a_head_takes_ids_from_the_tail_and_its_owner() -> None:
    it = private(start=0)
    assert [link for link in (OWNER, RIVAL, BEFORE, OTHER) if pushes(it, link, IDS)] == [OWNER, BEFORE]
    assert not pushes(it, OWNER, HIDDEN)


def test_rows_of_an_epoch_that_is_over_are_left_to_be_dropped_and_of_one_to_come_refused() -> None:
    it = private()
    assert pushes(it, OTHER, epoch=0)  # whoever came before in that epoch: nothing follows from them
    assert not pushes(it, BEFORE, epoch=2)


def test_only_its_owner_steers_a_session() -> None:
    it = private()
    for message in steering():
        assert [link for link in (OWNER, RIVAL, BEFORE, OTHER) if says(it, link, message)] == [OWNER]


def test_another_coordinator_takes_a_session_over_by_opening_a_later_epoch() -> None:
    it = private()
    assert says(it, RIVAL, Message(open=opening(2)))
    assert not says(it, BEFORE, Message(open=opening(2)))
    it.opened(RIVAL, opening(2))
    for message in steering():
        assert [link for link in (OWNER, RIVAL) if says(it, link, message)] == [RIVAL]


def test_a_session_is_closed_by_its_owner_or_by_whoever_has_gone_on_with_it() -> None:
    it = private()
    assert [link for link in (OWNER, RIVAL, BEFORE) if says(it, link, closing(1))] == [OWNER]
    assert says(it, RIVAL, closing(2))


def test_an_orphan_may_be_closed_by_any_coordinator_and_steered_by_none() -> None:
    it = private()
    it.attach(6, peer("owner", Role.COORDINATOR))
    it.detach(6)
    assert not says(it, RIVAL, closing(1))  # the owner has another link
    it.detach(OWNER)
    assert says(it, RIVAL, closing(1))
    assert not any(says(it, RIVAL, message) for message in steering())


@pytest.mark.parametrize(
    ("link", "kinds"),
    [
        (OWNER, {"hello", "open", "resume", "follow", "close", "frames"}),
        (BEFORE, {"hello", "frames", "probe"}),
        (CLIENT, set()),
    ],
)
def test_each_role_sends_its_own_kinds_of_messages_alone(link: int, kinds: set[str]) -> None:
    it, sent = private(), set()
    for kind in [field.name for field in Message.DESCRIPTOR.fields] + [None]:
        try:
            it.check_kind(link, kind)
        except TrustError:
            continue
        sent.add(kind)
    assert sent == kinds


def test_what_has_ended_is_forgotten_and_a_public_swarm_has_no_such_rules() -> None:
    it = private()
    it.forget(SESSION)
    assert pushes(it, OTHER)  # unknown here: the stage table says so
    public = Parties()
    public.opened(OWNER, opening())
    assert pushes(public, OTHER)
    assert all(says(public, OTHER, message) for message in (*steering(), closing(1), Message(open=opening(2))))
    public.check_kind(CLIENT, "open")
