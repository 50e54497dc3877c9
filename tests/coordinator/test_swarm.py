"""The swarm by its members' words: the newest counts, the lost stay lost, the silent go."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.builders import MODEL, node, span
from osai.coordinator import swarm as swarm_module
from osai.coordinator.swarm import NODE_TTL_S, SETTLE_S, Swarm, gaps, replicas, runs, serving
from osai.core.layers import LayerRange

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
    swarm.heard(replace(A, sequence=5), 1.0)  # its record still lies in the DHT
    assert swarm.nodes == ()
    assert swarm.get("a") is None
    swarm.heard(replace(A, sequence=6), 2.0)
    assert swarm.get("a") is not None


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

    def heard(self, sequence: int, now_s: float) -> None:
        if sequence > max(self.old, -1 if self.newest is None else self.newest):
            self.newest, self.at_s, self.old, self.lost_s = sequence, now_s, -1, -math.inf

    def found(self, sequence: int, now_s: float) -> None:
        if now_s - self.lost_s < SETTLE_S:
            self.old = max(self.old, sequence)
        else:
            self.heard(sequence, now_s)

    def lost(self, now_s: float) -> None:
        if self.newest is not None:
            self.old, self.lost_s, self.newest = self.newest, now_s, None

    def expire(self, now_s: float) -> None:
        if self.newest is not None and now_s - self.at_s > NODE_TTL_S:
            self.lost(-math.inf)


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
