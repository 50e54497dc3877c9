"""The swarm by its members' words: the newest counts, the lost stay lost, the silent go."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.builders import MODEL, node, span
from osai.coordinator import swarm as swarm_module
from osai.coordinator.suspicion import HOLD_S, SILENT_S
from osai.coordinator.swarm import FORGET_S, NODE_TTL_S, SETTLE_S, Swarm, gaps, joined, replicas, runs, serving
from osai.coordinator.swarm_state import DEFAULT_DELAY_S, NodeState
from osai.coordinator.wire import MAX_DELAYS, read_node
from osai.core.errors import PeerError
from osai.core.layers import LayerRange
from osai.proto import common_pb2, record_pb2

A = node("a", span(0, 2))
LOST_S = 100.0


def test_the_newest_record_wins_whatever_the_order() -> None:
    swarm = Swarm()
    swarm.heard(replace(A, sequence=5, num_sessions=5), 0.0)
    swarm.heard(replace(A, sequence=4, num_sessions=4), 1.0)
    swarm.heard(replace(A, sequence=5, num_sessions=9), 2.0)  # the same record, altered: not news
    assert swarm.nodes == (replace(A, sequence=5, num_sessions=5),)
    swarm.heard(replace(A, sequence=6, num_sessions=6), 3.0)
    assert swarm.get("a") == replace(A, sequence=6, num_sessions=6)


def test_a_lost_node_comes_back_with_something_newer_alone() -> None:
    swarm = Swarm()
    swarm.heard(replace(A, sequence=5), 0.0)
    swarm.lost("a", LOST_S)
    swarm.heard(replace(A, sequence=5), LOST_S + 1)  # its record still lies in the DHT
    assert swarm.nodes == ()
    assert swarm.get("a") is None
    swarm.heard(replace(A, sequence=6), LOST_S + 2)
    assert swarm.get("a") is not None


def test_a_node_that_has_set_its_clock_back_is_heard_again() -> None:
    """Sequences begin at the time of a node's start: one that was restarted with an earlier clock stayed unheard."""
    swarm = Swarm()
    swarm.heard(replace(A, sequence=5000), 0.0)
    swarm.lost("a", LOST_S)
    swarm.heard(replace(A, sequence=7), LOST_S + FORGET_S - 1)
    assert swarm.get("a") is None
    swarm.heard(replace(A, sequence=8), LOST_S + FORGET_S)
    assert swarm.get("a") is not None


def test_of_two_processes_with_one_id_the_later_start_counts() -> None:
    swarm = Swarm()
    swarm.heard(replace(A, sequence=100, address="old:1"), 0.0)
    swarm.heard(replace(A, sequence=5000, address="new:1"), 1.0)
    for i in range(10):  # the former incarnation goes on
        swarm.heard(replace(A, sequence=101 + i, address="old:1"), 2.0 + i)
        swarm.found(replace(A, sequence=101 + i, address="old:1"), 2.0 + i)
    assert [member.address for member in swarm.nodes] == ["new:1"]
    assert swarm.suspects(1.0 + SILENT_S + 0.1) == {"a"}  # nor are its heartbeats the later one's


def test_what_is_remembered_of_nodes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records cost nothing: those that are there stay, and nodes that speak for themselves go before hearsay."""
    monkeypatch.setattr(swarm_module, "MAX_NODES", 3)
    swarm = Swarm()
    for i in range(3):
        swarm.found(node(f"n{i}"), float(i))
    swarm.found(node("n3"), 3.0)
    assert [member.node_id for member in swarm.nodes] == ["n0", "n1", "n2"]
    swarm.found(node("n0", sequence=2), 4.0)
    for name in ("a", "b", "c", "d"):
        swarm.heard(node(name), 5.0)
    assert [member.node_id for member in swarm.nodes] == ["a", "b", "c"]


def test_losing_an_unknown_node_changes_nothing() -> None:
    swarm = Swarm()
    swarm.lost("a", LOST_S)
    swarm.heard(replace(A, sequence=0), 0.0)
    assert swarm.get("a") is not None


def test_a_node_is_forgotten_once_its_record_would_have_lapsed() -> None:
    swarm = Swarm()
    swarm.heard(replace(A, sequence=1), 0.0)
    swarm.heard(replace(A, sequence=1), 20.0)  # read from the DHT again: no sign of life
    swarm.heard(node("b", sequence=1), 20.0)
    swarm.expire(NODE_TTL_S)
    assert [member.node_id for member in swarm.nodes] == ["a", "b"]
    swarm.expire(NODE_TTL_S + 0.1)
    assert [member.node_id for member in swarm.nodes] == ["b"]
    swarm.heard(replace(A, sequence=1), 31.0)
    assert swarm.get("a") is None


def test_what_is_remembered_of_lost_nodes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identities cost nothing: anyone can make nodes come and go."""
    monkeypatch.setattr(swarm_module, "MAX_REMEMBERED_LOST", 3)
    swarm = Swarm()
    for i in range(5):
        swarm.heard(node(f"n{i}", sequence=7), 0.0)
        swarm.lost(f"n{i}", LOST_S)
    assert list(swarm._lost) == ["n2", "n3", "n4"]


def test_what_a_lost_node_left_in_the_dht_does_not_bring_it_back() -> None:
    """Its last record there may be newer than its last heartbeat: a node that had left used to reappear for 30 s."""
    swarm = Swarm()
    swarm.heard(replace(A, sequence=5), 99.0)
    swarm.lost("a", LOST_S)
    swarm.found(replace(A, sequence=7), LOST_S + 1)
    assert swarm.get("a") is None
    swarm.found(replace(A, sequence=7), LOST_S + SETTLE_S + 1)  # it still lies there
    assert swarm.get("a") is None
    swarm.found(replace(A, sequence=8), LOST_S + SETTLE_S + 1)  # written since: only its link had broken
    assert swarm.get("a") is not None


def test_a_lost_node_that_was_started_anew_is_found_at_once() -> None:
    """Its first record was taken for one from before the loss, and the next one came ten seconds later."""
    swarm = Swarm()
    swarm.found(replace(A, sequence=5, started_at_s=50.0), 0.0)
    swarm.lost("a", LOST_S)
    swarm.found(replace(A, sequence=6, started_at_s=50.0), LOST_S + 1)
    assert swarm.get("a") is None
    swarm.found(replace(A, sequence=9, started_at_s=101.0), LOST_S + 2)
    assert swarm.get("a") is not None


def test_a_lost_nodes_own_word_brings_it_back_at_once() -> None:
    swarm = Swarm()
    swarm.heard(replace(A, sequence=5), 99.0)
    swarm.lost("a", LOST_S)
    swarm.found(replace(A, sequence=6), LOST_S)
    swarm.heard(replace(A, sequence=6), LOST_S)
    assert swarm.get("a") is None
    swarm.heard(replace(A, sequence=7), LOST_S)
    assert swarm.get("a") is not None


def test_a_node_that_was_silent_for_long_comes_back_with_its_next_record() -> None:
    swarm = Swarm()
    swarm.found(replace(A, sequence=5), 0.0)
    swarm.expire(LOST_S)
    swarm.found(replace(A, sequence=6), LOST_S)
    assert swarm.get("a") is not None


class _Model:
    """What the swarm should believe of one node, said plainly."""

    def __init__(self) -> None:
        self.newest: int | None = None
        self.at_s = 0.0
        self.old = -1  # this sequence and older ones are from before it was lost
        self.lost_s = -math.inf
        self.broke = False  # else it was silent, and whatever comes is new

    def heard(self, sequence: int, now_s: float) -> None:
        old = self.old if now_s - self.lost_s < FORGET_S else -1
        if sequence > max(old, -1 if self.newest is None else self.newest):
            self.newest, self.at_s, self.old, self.lost_s = sequence, now_s, -1, -math.inf

    def found(self, sequence: int, now_s: float) -> None:
        if now_s - self.lost_s < SETTLE_S and self.broke:
            self.old = max(self.old, sequence)
        else:
            self.heard(sequence, now_s)

    def lost(self, now_s: float, *, broke: bool = True) -> None:
        if self.newest is not None:
            self.old, self.lost_s, self.newest, self.broke = self.newest, now_s, None, broke

    def expire(self, now_s: float) -> None:
        if self.newest is not None and now_s - self.at_s > NODE_TTL_S:
            self.lost(now_s, broke=False)


EVENTS = st.one_of(
    st.tuples(st.sampled_from(["heard", "found"]), st.integers(0, 6)),
    st.sampled_from([("lost", 0), ("expire", 0)]),
)


@given(
    history=st.lists(
        st.tuples(st.sampled_from("ab"), EVENTS, st.one_of(st.floats(0, 3), st.floats(0, 20))), max_size=40
    )
)
def test_any_history_gives_what_the_newest_words_say(history: list[tuple[str, tuple[str, int], float]]) -> None:
    swarm, models, now_s = Swarm(), {"a": _Model(), "b": _Model()}, 0.0
    for name, (event, sequence), later_s in history:
        now_s += later_s
        match event:
            case "heard":
                swarm.heard(node(name, sequence=sequence), now_s)
                models[name].heard(sequence, now_s)
            case "found":
                swarm.found(node(name, sequence=sequence), now_s)
                models[name].found(sequence, now_s)
            case "lost":
                swarm.lost(name, now_s)
                models[name].lost(now_s)
            case _:
                swarm.expire(now_s)
                for model in models.values():
                    model.expire(now_s)
        for key, model in models.items():
            seen = swarm.get(key)
            assert (seen.sequence if seen else None) == model.newest
        assert [member.node_id for member in swarm.nodes] == [k for k, m in models.items() if m.newest is not None]


def test_only_ready_spans_of_nodes_that_stay_serve() -> None:
    nodes = [
        node("a", span(0, 2), span(0, 4, model_id="other")),
        node("b", span(2, 4, state="loading")),
        node("c", span(2, 4, state="failed")),
        node("d", span(2, 4), state="draining"),
        node("e", span(2, 4), state="joining"),  # another model of it may still load
    ]
    assert [(member.node_id, found.layers) for member, found in serving(nodes, MODEL)] == [
        ("a", LayerRange(0, 2)),
        ("e", LayerRange(2, 4)),
    ]


@given(
    spans=st.lists(
        st.tuples(st.integers(0, 7), st.integers(1, 2**32)).map(lambda p: LayerRange(p[0], p[0] + p[1])), max_size=6
    ),
    num_layers=st.integers(1, 8),
)
def test_replicas_runs_and_gaps_agree_with_counting(spans: list[LayerRange], num_layers: int) -> None:
    """Spans from a peer's record may reach far past the model: they take no longer to count."""
    counts = replicas(spans, num_layers)
    assert counts == tuple(sum(layer in found for found in spans) for layer in range(num_layers))
    spread = [count for start, end, count in runs(counts) for _ in range(start, end)]
    assert tuple(spread) == counts
    borders = [start for start, _, _ in runs(counts)]
    assert all(counts[border - 1] != counts[border] for border in borders[1:])
    assert [layer for gap in gaps(counts) for layer in range(gap.start, gap.end)] == [
        layer for layer, count in enumerate(counts) if count == 0
    ]


def test_no_layers_have_no_runs() -> None:
    assert list(runs(())) == []
    assert gaps(()) == ()


def test_spans_that_join() -> None:
    ranges = [LayerRange(2, 4), LayerRange(0, 2), LayerRange(0, 3)]
    assert joined(ranges, 4)
    assert not joined(ranges, 5)
    assert not joined([LayerRange(0, 3), LayerRange(2, 4)], 4)  # every layer, but no way through
    assert not joined([LayerRange(0, 5)], 4)


def beat(swarm: Swarm, now_s: float, **fields: float) -> frozenset[str]:
    """A heartbeat of `a` that tells so of its span; the suspects then."""
    swarm.heard(replace(A, sequence=int(now_s * 10) + 1, spans=(span(0, 2, **fields),)), now_s)
    return swarm.suspects(now_s)


def test_a_node_ten_times_slower_than_its_best_is_suspect_until_it_is_well_for_a_while() -> None:
    swarm = Swarm()
    assert beat(swarm, 0.0, recent_step_s=0.008) == frozenset()  # better than the 10 ms announced
    assert beat(swarm, 2.0, recent_step_s=0.079) == frozenset()
    assert beat(swarm, 4.0, recent_step_s=0.080) == {"a"}
    assert beat(swarm, 6.0, recent_step_s=0.060) == {"a"}  # below ten times, yet not well
    assert beat(swarm, 8.0, recent_step_s=0.020) == {"a"}
    assert swarm.suspects(6.0 + HOLD_S - 0.1) == {"a"}
    assert beat(swarm, 11.0, recent_step_s=0.060) == frozenset()  # nor slow again
    assert beat(swarm, 13.0, recent_step_s=0.0, step_time_s=0.0) == frozenset()  # nothing ran of late


def test_a_tiny_models_steps_are_no_measure() -> None:
    swarm = Swarm()
    assert beat(swarm, 0.0, recent_step_s=0.0002, step_time_s=0.0002) == frozenset()
    assert beat(swarm, 2.0, recent_step_s=0.009) == frozenset()
    assert beat(swarm, 4.0, recent_step_s=0.010) == {"a"}


def test_a_node_that_is_stuck_in_a_step_is_suspect() -> None:
    swarm = Swarm()
    assert beat(swarm, 0.0, step_in_hand_s=1.9) == frozenset()
    assert beat(swarm, 2.0, step_in_hand_s=2.1) == {"a"}
    assert beat(swarm, 2.0 + HOLD_S) == frozenset()
    assert beat(swarm, 10.0, step_time_s=0.5, step_in_hand_s=4.9) == frozenset()
    assert beat(swarm, 12.0, step_time_s=0.5, step_in_hand_s=5.1) == {"a"}


def test_a_node_that_is_silent_though_connected_is_suspect() -> None:
    swarm = Swarm()
    beat(swarm, 0.0)
    swarm.found(node("b"), 0.0)  # another coordinator holds its control stream
    assert swarm.suspects(SILENT_S) == frozenset()
    swarm.found(replace(A, sequence=2), SILENT_S)  # another member may have passed it on
    assert swarm.suspects(SILENT_S + 0.1) == {"a"}
    assert beat(swarm, 6.0) == {"a"}
    assert beat(swarm, 6.0 + HOLD_S) == frozenset()
    swarm.lost("a", 20.0)
    assert swarm.suspects(30.0) == frozenset()


def test_what_a_nodes_clock_shows_does_not_matter() -> None:
    swarm = Swarm()
    for now_s in (0.0, 2.0, 4.0):
        swarm.heard(replace(A, sequence=int(now_s) + 1, started_at_s=1e12 * now_s), now_s)
        assert swarm.suspects(now_s) == frozenset()


def test_a_nodes_delays_are_in_order_and_their_median_is_usual() -> None:
    assert (A.least_delay_s, A.usual_delay_s) == (DEFAULT_DELAY_S, DEFAULT_DELAY_S)
    told: NodeState = replace(A, delays={"x": 0.3, "y": 0.1, "z": 0.2})
    assert list(told.delays.items()) == [("y", 0.1), ("z", 0.2), ("x", 0.3)]
    assert (told.least_delay_s, told.usual_delay_s) == (0.1, 0.2)


def record(**fields: float) -> record_pb2.NodeRecord:
    hosted = record_pb2.SpanRecord(model_id=MODEL, span=common_pb2.LayerRange(start=0, end=2), **fields)  # type: ignore[arg-type]
    return record_pb2.NodeRecord(node_id="a", edge_address="a:1", spans=[hosted], protocol_version=2)


def test_load_and_delays_are_read_from_records() -> None:
    told = record(recent_step_s=0.02, step_in_hand_s=1.5, num_waiting_rows=7)
    told.delays.add(node_id="b", delay_s=0.004)
    told.delays.add(node_id="c", delay_s=1e9)
    state = read_node(told)
    (hosted,) = state.spans
    assert (hosted.recent_step_s, hosted.step_in_hand_s, hosted.num_waiting_rows) == (0.02, 1.5, 7)
    assert (state.delays, state.protocol_version) == ({"b": 0.004, "c": 60.0}, 2)


@pytest.mark.parametrize("field", ["recent_step_s", "step_in_hand_s"])
@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_times_that_are_none_are_refused(field: str, seconds: float) -> None:
    with pytest.raises(PeerError, match="said to take"):
        read_node(record(**{field: seconds}))
    told = record()
    told.delays.add(node_id="b", delay_s=seconds)
    with pytest.raises(PeerError, match="s from b"):
        read_node(told)


def test_more_delays_than_any_node_measures_are_refused() -> None:
    told = record()
    for i in range(MAX_DELAYS + 1):
        told.delays.add(node_id=f"n{i}", delay_s=0.01)
    with pytest.raises(PeerError, match="at most"):
        read_node(told)
