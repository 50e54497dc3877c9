"""Nodes that join together: how often the source is read for each chunk, and that nobody waits for ever."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osai.node.weights import bits
from osai.node.weights.blames import Fault
from osai.node.weights.election import weights_of, wins_over
from osai.node.weights.plan_actions import PlanConfig
from weights.spread_world import Clock, Node, Peer, Source, chunks_of, whole

COUNT = 200
SEEN_S = 1.0  # until a node that has come is known to the others: less than PlanConfig.settle_s


def group(
    wanted: Sequence[int],
    starts_s: Sequence[float],
    source: Source | None = None,
    *,
    config: PlanConfig | None = None,
    took_s: float = 0.05,
) -> tuple[Clock, Source, list[Node]]:
    """Nodes that want these chunks, from these moments on; each is known to the others after SEEN_S."""
    clock, source = Clock(), source or Source()
    chunks = chunks_of(COUNT)
    nodes = [Node(f"node-{i}", clock, chunks, source, i, config=config, took_s=took_s) for i in range(len(wanted))]
    for node, chosen, start_s in zip(nodes, wanted, starts_s, strict=True):
        clock.after(start_s, lambda node=node, chosen=chosen: node.start(chosen))  # type: ignore[misc]
        for other in nodes:
            seen_s = max(start_s, starts_s[nodes.index(other)]) + SEEN_S
            if other is not node:
                clock.after(seen_s, lambda node=node, other=other: node.meet(other))  # type: ignore[misc]
    return clock, source, nodes


def all_have(nodes: Sequence[Node], wanted: Sequence[int]) -> bool:
    return all(not chosen & ~node.plan.held for node, chosen in zip(nodes, wanted, strict=True) if not node.is_dead)


def test_eight_nodes_that_join_at_once_read_the_source_once() -> None:
    wanted = [whole(COUNT)] * 8
    clock, source, nodes = group(wanted, [0.0] * 8)
    assert clock.run(lambda: all_have(nodes, wanted), 120.0)
    assert source.reads.total() == COUNT
    shares = [sum(view.held.bit_count() for view in node.plan._peers) for node in nodes]
    assert all(shares)


@given(st.lists(st.floats(0, 12), min_size=8, max_size=8))
@settings(max_examples=25)
def test_those_who_come_later_read_hardly_anything_again(starts_s: list[float]) -> None:
    wanted = [whole(COUNT)] * 8
    clock, source, nodes = group(wanted, starts_s)
    assert clock.run(lambda: all_have(nodes, wanted), 200.0)
    assert source.reads.total() <= 1.05 * COUNT


@given(st.lists(st.tuples(st.integers(0, COUNT), st.integers(0, COUNT)), min_size=2, max_size=8))
@settings(max_examples=25)
def test_spans_that_overlap_are_read_once(spans: list[tuple[int, int]]) -> None:
    wanted = [bits.of(range(min(span), max(span))) for span in spans]
    clock, source, nodes = group(wanted, [0.0] * len(spans))
    assert clock.run(lambda: all_have(nodes, wanted), 200.0)
    needed = 0
    for chosen in wanted:
        needed |= chosen
    assert source.reads.total() == needed.bit_count()


def test_what_a_node_that_died_was_to_read_is_read_once_by_another() -> None:
    wanted = [whole(COUNT)] * 8
    clock, source, nodes = group(wanted, [0.0] * 8)
    clock.after(3.0, lambda: setattr(nodes[3], "is_dead", True))
    assert clock.run(lambda: all_have(nodes, wanted), 120.0)
    assert source.reads.total() <= 1.05 * COUNT
    assert clock.now_s > 10.0  # it was waited for


def test_two_that_die_one_after_the_other_are_both_replaced() -> None:
    wanted = [whole(COUNT)] * 4
    clock, source, nodes = group(wanted, [0.0] * 4)
    clock.after(2.5, lambda: setattr(nodes[0], "is_dead", True))
    clock.after(13.0, lambda: setattr(nodes[1], "is_dead", True))
    assert clock.run(lambda: all_have(nodes, wanted), 120.0)
    lost = sum(node.plan.held.bit_count() for node in nodes if node.is_dead)  # what they had may have gone with them
    assert source.reads.total() <= 1.05 * COUNT + lost


class Pretender(Peer):
    """Seeks everything, and says that it gets it. It has two chunks, and tells now of the one, now of the other.

    So it always seems to get something; `stops`: it does so for four times only.
    """

    def __init__(self, name: str, count: int, *, stops: bool) -> None:
        super().__init__(name, 0b11)
        self._everything, self._stops, self._asked = whole(count), stops, 0

    def says(self) -> tuple[int, int, int]:
        self._asked += 1
        turn = min(self._asked // 8, 4) if self._stops else self._asked // 8
        return 1 << turn % 2, self._everything, self._everything


@pytest.mark.parametrize("stops", [True, False])
def test_who_only_pretends_to_fetch_holds_nobody_up_for_long(stops: bool) -> None:
    clock, source, nodes = group([whole(COUNT)], [0.0])
    nodes[0].meet(Pretender("node-x", COUNT, stops=stops))
    assert clock.run(lambda: all_have(nodes, [whole(COUNT)]), 90.0)
    assert source.reads.total() == COUNT - 2
    assert not nodes[0].blamed


def test_a_liar_among_those_who_join_is_blamed_by_all_and_costs_no_second_copy() -> None:
    wanted = [whole(COUNT)] * 4
    clock, source, nodes = group(wanted, [0.0] * 4)
    for node in nodes:
        node.meet(Peer("liar", 0, whole(COUNT), kind=Fault.WRONG))
    assert clock.run(lambda: all_have(nodes, wanted), 120.0)
    assert source.reads.total() <= 1.05 * COUNT
    assert all(node.blames.is_banned("liar") for node in nodes)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6, unique=True))
def test_exactly_one_of_any_group_is_elected_for_each_chunk(names: list[str]) -> None:
    digests = [chunk.sha256 for chunk in chunks_of(50)]
    weights = {name: weights_of(name, digests) for name in names}
    elected = []
    for name in names:
        beaten = 0
        for other in names:
            beaten |= wins_over(weights[other], weights[name])
        elected.append(whole(50) & ~beaten)
    assert sum(one.bit_count() for one in elected) == 50
    union = 0
    for one in elected:
        union |= one
    assert union == whole(50)


def test_shares_are_about_even() -> None:
    digests = [chunk.sha256 for chunk in chunks_of(4000)]
    names = [f"node-{i}" for i in range(8)]
    weights = [weights_of(name, digests) for name in names]
    for mine in weights:
        beaten = 0
        for other in weights:
            beaten |= wins_over(other, mine)
        assert 400 < 4000 - beaten.bit_count() < 600
