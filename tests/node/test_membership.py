"""Membership: joining, assignments, heartbeats, failures, draining."""

from dataclasses import replace

from osai.core.errors import (
    AssignmentError,
    ProtocolMismatchError,
    UnavailableError,
    UnknownModelError,
    WeightsError,
)
from osai.core.layers import LayerRange
from osai.node.membership import (
    Announce,
    Assigned,
    Load,
    Membership,
    MembershipConfig,
    Reconnect,
    SendHeartbeat,
    SendJoin,
    SendLeave,
    SpanStatus,
    Stop,
    Withdraw,
)

CONFIG = MembershipConfig()
ASSIGNED = Assigned(assignment_id=5, model_id="m", layers=LayerRange(0, 2), manifest=b"", source="")
READY = SpanStatus(model_id="m", layers=LayerRange(0, 2), state="ready")


def member(num_wished: int = 1) -> Membership:
    return Membership(CONFIG, num_wished=num_wished, now_s=0.0)


def joined(num_wished: int = 1) -> Membership:
    node = member(num_wished)
    node.connected()
    node.welcomed(2.0, 0.0)
    return node


def test_a_node_joins_loads_and_is_ready() -> None:
    node = member()
    assert node.connected() == [SendJoin()]
    assert node.welcomed(2.0, 0.0) == [Announce()]
    assert node.assigned(ASSIGNED) == [Load(ASSIGNED), SendHeartbeat()]
    assert (node.state, node.spans[0].state) == ("joining", "loading")
    assert node.loaded(READY) == [Announce(), SendHeartbeat()]
    assert node.state == "ready"


def test_an_assignment_out_of_date_or_of_a_hosted_model_changes_nothing() -> None:
    node = joined()
    node.assigned(ASSIGNED)
    old = Assigned(assignment_id=4, model_id="other", layers=LayerRange(0, 1), manifest=b"", source="")
    again = Assigned(assignment_id=6, model_id="m", layers=LayerRange(2, 4), manifest=b"", source="")
    assert node.assigned(old) == []
    assert node.assigned(again) == []
    assert [span.layers for span in node.spans] == [LayerRange(0, 2)]


def test_heartbeats_and_announcements_come_at_their_intervals() -> None:
    node = joined()
    node.tick(0, 0.0)  # the first announcement
    seen = [(now / 10, type(a)) for now in range(1, 130) for a in node.tick(0, now / 10)]
    assert [at for at, kind in seen if kind is SendHeartbeat] == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert [at for at, kind in seen if kind is Announce] == [5.0, 10.0]


def test_a_change_of_load_is_told_at_once() -> None:
    node = joined()
    node.tick(0, 0.0)
    assert SendHeartbeat() in node.tick(3, 0.2)
    assert node.tick(3, 0.4) == []
    assert SendHeartbeat() in node.tick(0, 0.6)


def test_a_lost_coordinator_is_dialled_again_with_growing_pauses_while_spans_serve_on() -> None:
    node = joined()
    node.assigned(ASSIGNED)
    node.loaded(READY)
    error = UnavailableError("gone")
    pauses = [node.disconnected(error, 100.0 + i) for i in range(7)]
    assert pauses == [[Reconnect(after)] for after in (0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0)]
    assert node.state == "ready"
    assert not any(isinstance(action, SendHeartbeat) for action in node.tick(0, 200.0))
    node.connected()
    node.welcomed(2.0, 300.0)
    assert node.disconnected(error, 301.0) == [Reconnect(0.5)]


def test_a_coordinator_that_never_answers_ends_the_node_after_its_deadline() -> None:
    node, error = member(), UnavailableError("no connection")
    assert node.disconnected(error, 19.0) == [Reconnect(0.5)]
    assert node.disconnected(error, 20.5) == [Stop(error)]


def test_another_protocol_or_a_refusal_ends_a_node_at_once_only_before_it_was_welcome() -> None:
    mismatch, refusal = ProtocolMismatchError("v9"), UnknownModelError("no such model")
    assert member().disconnected(mismatch, 0.1) == [Stop(mismatch)]
    assert member().refused(refusal) == [Stop(refusal)]
    assert joined().refused(refusal) == []


def test_a_span_that_fails_ends_the_node_only_where_nothing_else_is_left() -> None:
    error = WeightsError("tensor x differs")
    alone = joined()
    alone.assigned(ASSIGNED)
    assert alone.failed("m", error) == [SendHeartbeat(), Announce(), Stop(error)]
    assert alone.spans[0].failure == "tensor x differs"
    pair = joined(num_wished=2)
    pair.assigned(ASSIGNED)
    pair.loaded(READY)
    other = Assigned(assignment_id=6, model_id="n", layers=LayerRange(0, 1), manifest=b"", source="")
    pair.assigned(other)
    assert pair.failed("n", error) == [SendHeartbeat(), Announce()]


def test_a_drain_waits_for_the_sessions_then_stops() -> None:
    node = joined()
    node.assigned(ASSIGNED)
    node.loaded(READY)
    assert node.drain("SIGTERM", 50.0) == [SendLeave("SIGTERM"), SendHeartbeat(), Announce()]
    assert node.drain("again", 50.1) == []
    assert node.state == "draining"
    assert Stop() not in node.tick(1, 51.0)
    assert (
        node.assigned(Assigned(assignment_id=9, model_id="n", layers=LayerRange(0, 1), manifest=b"", source="")) == []
    )
    assert node.tick(0, 52.0)[-1] == Stop()


def test_a_drain_does_not_wait_for_ever() -> None:
    node = joined()
    node.drain("SIGTERM", 50.0)
    assert Stop() not in node.tick(3, 79.0)
    assert node.tick(3, 80.0)[-1] == Stop()


OTHER = Assigned(assignment_id=7, model_id="m", layers=LayerRange(4, 6), manifest=b"", source="", replace=True)


def serving(named: frozenset[str] = frozenset(), pinned: frozenset[str] = frozenset()) -> Membership:
    """A node that has served its span since second 0; it is second 100."""
    node = Membership(CONFIG, num_wished=1, now_s=0.0, named=named, pinned=pinned)
    node.connected()
    node.welcomed(2.0, 0.0)
    node.assigned(ASSIGNED)
    node.loaded(READY)
    node.tick(0, 100.0)
    return node


def states(node: Membership) -> list[tuple[str, str, str]]:
    return [(span.model_id, str(span.layers), span.state) for span in node.spans]


def test_a_span_that_is_replaced_drains_first_then_goes_then_the_new_one_is_loaded() -> None:
    node = serving()
    assert node.assigned(OTHER) == [SendHeartbeat(), Announce()]
    assert states(node) == [("m", "0:2", "draining")]
    withdrawals = [at for at in range(101, 120) for action in node.tick(0, at) if isinstance(action, Withdraw)]
    assert withdrawals == [100 + CONFIG.drain_notice_s]  # once, and not before everybody could hear
    assert node.withdrawn("m") == [Load(OTHER), SendHeartbeat(), Announce()]
    assert states(node) == [("m", "4:6", "loading")]
    node.loaded(replace(READY, layers=LayerRange(4, 6)))
    assert states(node) == [("m", "4:6", "ready")]


def test_a_replaced_span_waits_for_its_sessions_until_its_deadline() -> None:
    node = serving()
    node.assigned(OTHER)
    withdrawals = [at for at in range(101, 150) for action in node.tick(2, at) if isinstance(action, Withdraw)]
    assert withdrawals == [100 + CONFIG.drain_deadline_s]


def test_a_span_that_drains_stays_when_its_own_layers_are_assigned_again() -> None:
    node = serving()
    node.assigned(OTHER)
    stay = replace(OTHER, assignment_id=8, layers=LayerRange(0, 2))
    assert node.assigned(replace(stay, assignment_id=7)) == []  # out of date
    assert node.assigned(stay) == [SendHeartbeat(), Announce()]
    assert states(node) == [("m", "0:2", "ready")]
    assert node.spans[0].next is None
    assert not [action for at in range(101, 200) for action in node.tick(0, at) if isinstance(action, Withdraw)]


def test_a_span_that_is_withdrawn_already_goes_all_the_same() -> None:
    node = serving()
    node.assigned(OTHER)
    assert Withdraw("m") in node.tick(0, 100 + CONFIG.drain_notice_s)
    assert node.assigned(replace(OTHER, assignment_id=8, layers=LayerRange(0, 2))) == []
    assert node.withdrawn("m") == [Load(OTHER), SendHeartbeat(), Announce()]


def test_what_is_out_of_date_pinned_the_same_or_too_soon_replaces_nothing() -> None:
    stale = replace(OTHER, assignment_id=4)
    same = replace(OTHER, layers=LayerRange(0, 2))
    assert serving().assigned(stale) == serving().assigned(same) == []
    assert serving(frozenset("m"), frozenset("m")).assigned(OTHER) == []
    assert serving(pinned=frozenset(("",))).assigned(OTHER) == []
    node = serving()
    node.assigned(OTHER)
    again = replace(OTHER, assignment_id=8, layers=LayerRange(2, 4))
    assert node.assigned(again) == []  # it drains already
    node.tick(0, 100.0 + CONFIG.drain_notice_s)
    node.withdrawn("m")
    assert node.assigned(replace(again, assignment_id=9)) == []  # it loads
    node.loaded(replace(READY, layers=LayerRange(4, 6)))
    assert node.assigned(replace(again, assignment_id=10)) == []  # another coordinator, which has not heard of it yet
    node.tick(0, 101.0 + CONFIG.replace_rest_s)
    assert node.assigned(replace(again, assignment_id=11)) != []


def test_a_span_of_any_model_gives_way_to_another_models_and_a_named_one_does_not() -> None:
    other = replace(OTHER, model_id="n")
    node = serving()
    assert node.assigned(other) == [SendHeartbeat(), Announce()]
    node.tick(0, 110.0)
    node.withdrawn("m")
    assert states(node) == [("n", "4:6", "loading")]
    named = serving(named=frozenset("m"))
    assert named.assigned(other) == [Load(other), SendHeartbeat()]
    assert states(named) == [("m", "0:2", "ready"), ("n", "4:6", "loading")]


def test_a_node_that_leaves_while_a_span_drains_loads_nothing_more() -> None:
    node = serving()
    node.assigned(OTHER)
    node.drain("SIGTERM", 101.0)
    assert node.withdrawn("m") == [SendHeartbeat(), Announce()]


def test_a_node_without_enough_memory_waits_a_while_for_fewer_layers() -> None:
    error = AssignmentError("layers 0:2 take too much")
    node = joined()
    node.assigned(ASSIGNED)
    assert node.failed("m", error) == [SendHeartbeat(), Announce()]
    assert Stop(error) not in node.tick(0, CONFIG.useless_s - 0.1)
    smaller = replace(OTHER, layers=LayerRange(0, 1), replace=False)
    assert node.assigned(smaller) == [Load(smaller), SendHeartbeat()]
    assert Stop(error) not in node.tick(0, CONFIG.useless_s)
    node.failed("m", error)
    assert node.tick(0, 2 * CONFIG.useless_s) == [Stop(error)]


def test_a_node_without_enough_memory_for_layers_that_were_asked_for_stops() -> None:
    error = AssignmentError("layers 0:2 take too much")
    node = Membership(CONFIG, num_wished=1, now_s=0.0, named=frozenset("m"), pinned=frozenset("m"))
    node.assigned(ASSIGNED)
    assert node.failed("m", error) == [SendHeartbeat(), Announce(), Stop(error)]


def test_a_former_incarnation_stops() -> None:
    error = AssignmentError("another process has joined as this node")
    assert serving().superseded(error) == [Stop(error)]


def test_an_urgent_replacement_waits_for_no_session_and_no_rest() -> None:
    """Sessions that wait for the layers that are to come kept the span that was to give way for 30 s."""
    node = joined()
    node.assigned(ASSIGNED)
    node.loaded(READY)
    node.tick(1, 1.0)
    first = replace(ASSIGNED, assignment_id=6, layers=LayerRange(2, 4), replace=True, urgent=True)
    node.assigned(first)
    assert (node.spans[0].state, node.spans[0].next) == ("draining", first.layers)  # or others would repair it too
    assert Withdraw("m") in node.tick(1, 1.2)
    assert node.withdrawn("m")[0] == Load(first)
    node.loaded(replace(READY, layers=first.layers))
    second = replace(first, assignment_id=7, layers=LayerRange(4, 6))
    node.assigned(second)
    assert Withdraw("m") in node.tick(1, 1.4)
