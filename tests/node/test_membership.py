"""Membership: joining, assignments, heartbeats, failures, draining."""

from osai.core.errors import ProtocolMismatchError, UnavailableError, UnknownModelError, WeightsError
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
    assert [at for at, kind in seen if kind is Announce] == [10.0]


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
    assert pauses == [[Reconnect(after)] for after in (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0)]
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
    assert node.drain("SIGTERM", 50.0) == [SendLeave("SIGTERM"), Announce()]
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
