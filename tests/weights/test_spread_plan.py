"""The chunk plan alone: what is got, what is never handed out, who is asked no more, and how much is out at a time."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from osai.node.weights import bits
from osai.node.weights.blames import MAX_STRIKES, Blames, Fault
from osai.node.weights.plan_actions import PlanConfig
from osai.node.weights.plan_peers import MAX_UNHEARD
from weights.spread_world import Clock, Node, Peer, Source, chunks_of, whole

LIMIT_S = 600.0
KINDS = list(Fault)


@st.composite
def bad_peers(draw: st.DrawFn, count: int) -> list[Peer]:
    """Peers that claim what they like, each of another ill will."""
    kinds = draw(st.lists(st.sampled_from(KINDS), max_size=5))
    return [Peer(f"bad-{i}", 0, draw(st.integers(0, whole(count))), kind=kind) for i, kind in enumerate(kinds)]


@given(st.data())
@settings(max_examples=150)
def test_every_chunk_is_got_if_an_honest_holder_lives(data: st.DataObject) -> None:
    """Whatever the others are.

    The world checks at each step that nothing else is handed out, that who is banned is asked no more, and that no more
    is out than is allowed.
    """
    count = data.draw(st.integers(1, 24))
    clock = Clock()
    node = Node("me", clock, chunks_of(count), None, data.draw(st.integers(0, 9)))
    parts = data.draw(st.lists(st.integers(0, whole(count)), min_size=1, max_size=3))
    covered = 0
    for part in parts:
        covered |= part
    parts[0] |= whole(count) & ~covered  # together they have all of it
    peers = [Peer(f"good-{i}", part) for i, part in enumerate(parts)] + data.draw(bad_peers(count))
    Random(data.draw(st.integers(0, 9))).shuffle(peers)
    node.start(whole(count))
    for peer in peers:
        clock.after(data.draw(st.floats(0, 3)), lambda peer=peer: node.meet(peer))  # type: ignore[misc]
    assert clock.run(lambda: node.is_done, LIMIT_S)
    assert not [blame for blame in node.blamed if blame.peer.startswith("good")]
    assert all(peer.kind is not None for peer in peers if node.blames.is_banned(peer.name))
    asked_liars = {blame.peer for blame in node.blamed if blame.fault in {Fault.WRONG, Fault.TOO_MUCH}}
    assert all(node.blames.is_banned(liar) for liar in asked_liars)


@given(st.data())
@settings(max_examples=100)
def test_with_a_source_every_chunk_is_got_whoever_the_peers_are(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 24))
    clock, source = Clock(), Source()
    node = Node("me", clock, chunks_of(count), source, data.draw(st.integers(0, 9)))
    node.start(whole(count))
    for peer in data.draw(bad_peers(count)):
        node.meet(peer)
    assert clock.run(lambda: node.is_done, LIMIT_S)


def test_a_liar_is_asked_no_more_and_what_else_it_owes_is_cancelled() -> None:
    clock = Clock()
    node = Node("me", clock, chunks_of(8), Source(), 1)
    node.start(whole(8))
    node.meet(Peer("liar", 0, whole(8), kind=Fault.WRONG))
    assert [chunk for peer, chunk in node.out.values() if peer == "liar"]  # asked at once, the source is not open yet
    assert clock.run(lambda: node.is_done, LIMIT_S)
    assert [(blame.peer, blame.fault, blame.banned) for blame in node.blamed] == [("liar", Fault.WRONG, True)]


def test_three_strikes_and_a_staller_is_out() -> None:
    clock = Clock()
    node = Node("me", clock, chunks_of(8), None, 1)
    node.start(whole(8))
    node.meet(Peer("staller", 0, whole(8), kind=Fault.STALLED))
    assert clock.run(lambda: node.blames.is_banned("staller"), LIMIT_S)
    assert [blame.banned for blame in node.blamed] == [False, False, True]


def test_rare_chunks_come_first() -> None:
    clock, count = Clock(), 12
    node = Node("me", clock, chunks_of(count), None, 3)
    node.meet(Peer("all", whole(count)))
    for name in ("b", "c"):
        node.meet(Peer(name, whole(count) & ~0b111))
    node.start(whole(count))
    asked = [chunk for peer, chunk in node.out.values() if peer == "all"]
    assert len(asked) == 2
    assert set(asked) < {0, 1, 2}


def test_what_is_waited_for_goes_before_what_is_rare() -> None:
    clock = Clock()
    node = Node("me", clock, chunks_of(12), None, 3, config=PlanConfig(from_peers=1))
    node.meet(Peer("a", whole(12)))
    node.do(node.plan.demand(7, 0.0))
    assert [chunk for _, chunk in node.out.values()] == [7]


def test_without_holder_and_source_a_chunk_is_given_up_and_the_reason_told() -> None:
    clock = Clock()
    node = Node("me", clock, chunks_of(2), None, 1)
    node.start(0)
    node.do(node.plan.demand(1, 0.0))
    assert not node.is_done
    node._tick()
    assert clock.run(lambda: 1 in node.given_up, 60.0)
    assert clock.now_s >= node.config.patience_s
    assert "no other place" in node.given_up[1]


def test_a_source_that_fails_is_asked_three_times_and_a_peer_that_comes_then_still_counts() -> None:
    clock, source = Clock(), Source(fails=True)
    node = Node("me", clock, chunks_of(1), source, 1)
    node.start(0)
    node.do(node.plan.demand(0, 0.0))
    node._tick()
    assert clock.run(lambda: 0 in node.given_up, 60.0)
    assert source.reads[0] == node.config.source_tries
    node.meet(Peer("late", 1))
    node.do(node.plan.demand(0, clock.now_s))
    assert clock.run(lambda: node.is_done, 60.0)


def test_a_slow_peer_does_not_keep_a_node_from_the_source() -> None:
    clock, source = Clock(), Source()
    node = Node("me", clock, chunks_of(40), source, 1, took_s=20.0)  # 4 MiB in 20 s
    node.start(whole(40))
    node.meet(Peer("slow", whole(40)))
    assert clock.run(lambda: node.is_done, 60.0)
    assert source.reads.total() >= 30


def test_a_stopped_request_is_cancelled_and_what_comes_late_is_not_used() -> None:
    clock = Clock()
    node = Node("me", clock, chunks_of(1), None, 1)
    node.meet(Peer("a", 1))
    node.start(1)
    (number,) = node.out
    node.do(node.plan.gone("a", 0.0))
    assert node.plan.arrived(number, node.chunks[0].sha256, 1.0) == []
    assert node.plan.missing == 1


def test_a_chunk_that_was_dropped_is_fetched_again() -> None:
    clock = Clock()
    node = Node("me", clock, chunks_of(3), None, 1)
    node.meet(Peer("a", 0b111))
    node.start(0b111)
    assert clock.run(lambda: node.is_done, 10.0)
    node.plan.dropped(1)
    assert bits.members(node.plan.missing).__next__() == 1
    node.do(node.plan.demand(1, clock.now_s))
    assert clock.run(lambda: node.is_done, 20.0)


def test_a_broken_line_now_and_then_is_forgiven_by_what_comes_right() -> None:
    blames = Blames()
    for _ in range(100):
        assert blames.blame("a", Fault.LOST)
        blames.praise("a")
    assert not blames.is_banned("a")
    assert blames.num_blames == 100
    for _ in range(MAX_STRIKES):
        blames.blame("b", Fault.LOST)
    assert blames.is_banned("b")
    for _ in range(100):  # once is for ever
        blames.praise("b")
    assert blames.is_banned("b")
    assert not blames.blame("c", Fault.BUSY)


def test_the_source_waits_until_a_node_that_has_just_come_has_said_what_it_has() -> None:
    clock, source = Clock(), Source()
    node = Node("me", clock, chunks_of(8), source, 1)
    node.start(whole(8))
    node.plan.met("new", 0.0)
    clock.after(2.9, lambda: node.do(node.plan.told("new", 0, whole(8), 0, clock.now_s)))
    assert clock.run(lambda: bool(source.reads), 30.0)
    assert clock.now_s >= 2.9
    beaten = node.plan._peers.awaited()
    assert beaten
    assert not any(beaten >> chunk & 1 for chunk in source.reads)


def test_the_source_waits_for_a_peer_that_fetches_too_and_has_said_nothing_for_seconds() -> None:
    clock, source = Clock(), Source(took_s=1.0)
    node = Node("me", clock, chunks_of(40), source, 1)
    node.start(whole(40))
    node.do(node.plan.told("other", 0, whole(40), 0, 0.0))  # and no more
    for i in range(1, 6):
        clock.after(i / 2, lambda: node.do(node.plan.told("other", 0, whole(40), 0, clock.now_s)))
    assert clock.run(lambda: bool(source.reads), 30.0)
    clock.run(lambda: clock.now_s > 5.0, 30.0)
    before = source.reads.total()
    clock.run(lambda: clock.now_s > 9.0, 30.0)
    assert source.reads.total() == before
    assert clock.run(lambda: node.is_done, 90.0)  # there is an end to it


def test_no_number_of_newcomers_keeps_a_node_from_the_source_for_ever() -> None:
    clock, source = Clock(), Source()
    node = Node("me", clock, chunks_of(8), source, 1)
    node.start(whole(8))
    for i in range(60):
        clock.after(i, lambda i=i: node.plan.met(f"new-{i}", clock.now_s))  # type: ignore[misc]
    assert clock.run(lambda: node.is_done, 30.0)


def test_a_node_that_was_held_up_blames_nobody_for_it() -> None:
    """Its loop stood still: what has come is read after the tick that finds the requests overdue."""
    clock = Clock()
    node = Node("me", clock, chunks_of(1), None, 1)
    node.meet(Peer("a", 1, kind=Fault.STALLED))
    node.do(node.plan.want(1, 0.0))
    (number,) = node.out
    node.do(node.plan.tick(0.0))
    node.do(node.plan.tick(100.0))
    assert not node.blamed
    node.brought[number] = node.chunks[0].sha256
    node.do(node.plan.arrived(number, node.chunks[0].sha256, 100.1))
    assert node.is_done


def test_what_strangers_are_called_takes_no_room() -> None:
    node = Node("me", Clock(), chunks_of(1), Source(), 1)
    for i in range(10 * MAX_UNHEARD):
        node.plan.met(f"{i}", 0.0)
    assert len(node.plan._peers._unheard) == MAX_UNHEARD
    assert not node.plan._peers.are_unheard(100.0)
    assert not node.plan._peers._unheard
