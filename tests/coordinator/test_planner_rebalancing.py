"""When nodes are told to move: patience, pace, refusals, several coordinators, several models."""

import re
from dataclasses import dataclass, field, replace

import pytest

from coordinator.builders import MODEL, model, node, span
from osai.coordinator.placing.capacity import what_is_missing
from osai.coordinator.placing.demand import HALF_LIFE_S, Demand
from osai.coordinator.placing.members import Member, Wish
from osai.coordinator.placing.rebalancing import Order, Rebalancer, RebalancingConfig
from osai.coordinator.roster import Roster
from osai.coordinator.swarm import NodeState
from osai.coordinator.text import Tokenizer
from osai.core.layers import LayerRange
from osai.core.precision import parse_precision
from osai.proto import record_pb2

OTHER = "me/other"
CONFIG = RebalancingConfig()
START = CONFIG.start_s
ANY = Wish(model_id="", layers=None)


@dataclass
class Table:
    """A rebalancer over two models of six layers of 100 bytes, and the nodes that it looks at."""

    tokenizer: Tokenizer
    names: tuple[str, ...] = (MODEL,)
    rank: int = 0
    nodes: dict[str, NodeState] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    demand: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.models = {name: model(self.tokenizer, name) for name in self.names}
        self.rebalancer = Rebalancer(list(self.models.values()), CONFIG)
        self.told_at_start = self.told(0.0)

    def add(self, name: str, layers: str, *, memory: int = 1000, model_id: str = MODEL, state: str = "ready",
            wishes: tuple[Wish, ...] = (ANY,), step_s: float = 0.01, member: bool = True,
            following: str = "") -> None:  # fmt: skip
        at, after = LayerRange.parse(layers), LayerRange.parse(following) if following else None
        digest = self.models[model_id].manifest.digest
        held = span(at.start, at.end, model_id=model_id, manifest_digest=digest, state=state, step_time_s=step_s,
                    next=after)  # fmt: skip
        self.nodes[name] = node(name, held, memory_bytes=memory)
        if member:
            precision = parse_precision("float32")
            self.members[name] = Member(node_id=name, wishes=wishes, precision=precision, memory_bytes=memory)

    def go(self, name: str) -> None:
        del self.nodes[name]
        self.members.pop(name, None)

    def orders(self, now_s: float) -> list[Order]:
        return self.rebalancer.decide(
            list(self.nodes.values()), self.members, self.demand, rank=self.rank, now_s=now_s
        )  # fmt: skip

    def told(self, now_s: float) -> list[tuple[str, str, bool]]:
        return [(order.node_id, str(order.layers), order.replace) for order in self.orders(now_s)]


def three_and_a_spare(tokenizer: Tokenizer, rank: int = 0) -> Table:
    table = Table(tokenizer, rank=rank)
    for name, layers in (("a", "0:2"), ("b", "2:4"), ("c", "4:6"), ("d", "0:2")):
        table.add(name, layers, memory=316)
    return table


def test_a_gap_is_closed_once_it_has_lasted(tokenizer: Tokenizer) -> None:
    table = three_and_a_spare(tokenizer)
    assert table.told(START) == []
    table.go("c")
    assert table.told(START + 1) == []
    assert table.told(START + 1 + CONFIG.gap_wait_s) == [("d", "4:6", True)]
    assert table.told(START + 2 + CONFIG.gap_wait_s) == []  # it is on its way


def moving(tokenizer: Tokenizer) -> Table:
    """Node d has been told to leave layers 0:2, which a has too, for 4:6, and drains."""
    table = three_and_a_spare(tokenizer)
    table.add("d", "0:2", memory=316, state="draining", following="4:6")
    assert table.told(START) == []
    return table


def test_a_move_that_would_open_a_gap_by_now_is_called_back_at_once(tokenizer: Tokenizer) -> None:
    table = moving(tokenizer)
    table.nodes["a"] = replace(table.nodes["a"], state="draining")
    assert table.told(START + 1) == [("d", "0:2", True)]
    table.add("d", "0:2", memory=316)
    assert table.told(START + 2) == table.told(START + 60) == []


def test_a_move_is_not_called_back_where_that_would_not_help_or_is_another_coordinators(tokenizer: Tokenizer) -> None:
    table = moving(tokenizer)
    table.go("b")
    assert ("d", "0:2", True) not in table.told(START + 1)  # layers 2:4 are missing either way
    table = moving(tokenizer)
    table.go("a")
    table.members.clear()
    assert table.told(START + 1) == []


def test_only_as_many_moves_are_called_back_as_it_takes(tokenizer: Tokenizer) -> None:
    table = moving(tokenizer)
    table.add("a", "0:2", memory=316, state="draining", following="2:4")
    assert [layers for _, layers, _ in table.told(START + 1)] == ["0:2"]


def test_a_node_that_comes_back_in_time_moves_nobody(tokenizer: Tokenizer) -> None:
    table = three_and_a_spare(tokenizer)
    table.go("c")
    assert table.told(START + 1) == []
    table.add("c", "4:6", memory=316)
    assert table.told(START + 3) == []
    table.go("c")
    assert table.told(START + 5) == []


def test_a_coordinator_that_has_just_started_waits_for_the_nodes_to_dial_in(tokenizer: Tokenizer) -> None:
    table = three_and_a_spare(tokenizer)
    table.go("c")
    assert table.told(1.0) == table.told(START - 0.1) == []


@pytest.mark.parametrize("rank", [1, 2])
def test_coordinators_of_higher_ids_act_later(tokenizer: Tokenizer, rank: int) -> None:
    table = three_and_a_spare(tokenizer, rank)
    table.go("c")
    table.told(START)
    due_s = START + CONFIG.gap_wait_s + rank * CONFIG.rank_wait_s
    assert table.told(due_s - 0.1) == []
    assert table.told(due_s) == [("d", "4:6", True)]


def test_nodes_of_other_coordinators_are_counted_and_not_moved(tokenizer: Tokenizer) -> None:
    table = three_and_a_spare(tokenizer)
    table.go("c")
    del table.members["d"]
    table.told(START)
    assert table.told(START + 100) == [("a", "4:6", True)]  # its layers have another holder


def test_the_view_of_a_swarm_in_which_another_coordinator_moves_a_node_is_settled(tokenizer: Tokenizer) -> None:
    table = three_and_a_spare(tokenizer)
    table.go("c")
    table.told(START)
    table.add("e", "4:6", state="loading", member=False)
    assert table.told(START + 100) == []


def test_a_span_that_fails_to_load_goes_to_another_node_and_is_not_offered_again(tokenizer: Tokenizer) -> None:
    table = three_and_a_spare(tokenizer)
    table.add("e", "0:2", memory=316)
    table.go("c")
    table.told(START)
    (first,) = table.orders(START + 4)
    table.add(first.node_id, "4:6", memory=316, state="failed")
    assert table.told(START + 5) == [("de".replace(first.node_id, ""), "4:6", True)]
    table.go("de".replace(first.node_id, ""))
    later = [order.layers for at_s in range(10, 250, 5) for order in table.orders(START + at_s)]
    assert LayerRange(4, 6) not in later  # of the one that failed


def test_a_node_that_says_nothing_of_its_order_is_believed_not_to_follow(tokenizer: Tokenizer) -> None:
    table = three_and_a_spare(tokenizer)
    table.go("c")
    table.told(START)
    assert table.told(START + 4) == [("d", "4:6", True)]
    assert table.told(START + 3 + CONFIG.answer_s) == []
    assert table.told(START + 4 + CONFIG.answer_s) == [("d", "4:6", True)]  # it still serves what it did


def test_pinned_layers_stay_whatever_is_missing(tokenizer: Tokenizer) -> None:
    table = Table(tokenizer)
    pinned = (Wish(model_id=MODEL, layers=LayerRange(0, 3)),)
    for name in ("a", "b"):
        table.add(name, "0:3", wishes=pinned)
    table.told(START)
    assert table.told(START + 100) == []


def unbalanced(tokenizer: Tokenizer) -> Table:
    table = Table(tokenizer)
    for i in range(8):
        table.add(f"a{i}", "0:3", memory=316)
    table.add("z", "3:6", memory=316)
    return table


def carried_out(table: Table, hours: float) -> list[tuple[float, str]]:
    """Moves with their times; each node obeys at once."""
    moves = []
    for at_s in range(int(START), int(hours * 3600), 5):
        for order in table.orders(float(at_s)):
            moves.append((float(at_s), order.node_id))
            table.add(order.node_id, str(order.layers), memory=316)
    return moves


def test_moves_that_gain_wait_until_the_swarm_has_settled_and_come_one_by_one(tokenizer: Tokenizer) -> None:
    table = unbalanced(tokenizer)
    assert table.told(START) == []
    assert table.told(START + CONFIG.gain_wait_s - 1) == []
    assert len(table.told(START + CONFIG.gain_wait_s)) == 1
    assert table.told(START + CONFIG.gain_wait_s + 1) == []


def test_moves_are_bounded_and_come_to_an_end(tokenizer: Tokenizer) -> None:
    table = unbalanced(tokenizer)
    moves = carried_out(table, hours=3)
    assert 2 <= len(moves) <= CONFIG.moves_per_hour
    for i, (at_s, name) in enumerate(moves):
        assert all(at_s - before_s >= CONFIG.rest_s for before_s, other in moves[:i] if other == name)
    assert moves[-1][0] < 1800
    assert sum(str(each.spans[0].layers) == "3:6" for each in table.nodes.values()) in (3, 4, 5)


def test_a_draining_node_counts_as_gone(tokenizer: Tokenizer) -> None:
    table = three_and_a_spare(tokenizer)
    table.nodes["c"] = replace(table.nodes["c"], state="draining")
    table.told(START)
    assert table.told(START + 4) == [("d", "4:6", True)]


def test_any_node_is_lent_to_a_model_that_nobody_holds(tokenizer: Tokenizer) -> None:
    table = Table(tokenizer, names=(MODEL, OTHER))
    table.add("a", "0:6")
    table.add("b", "0:6")
    table.add("c", "0:6", wishes=(Wish(model_id=MODEL, layers=None),))  # for this model alone
    table.told(START)
    (order,) = table.orders(START + 4)
    assert (order.model_id, str(order.layers), order.replace) == (OTHER, "0:6", True)
    assert order.node_id in ("a", "b")


def test_the_only_node_of_a_model_is_not_lent(tokenizer: Tokenizer) -> None:
    table = Table(tokenizer, names=(MODEL, OTHER))
    table.add("a", "0:6")
    table.told(START)
    assert table.told(START + 100) == []


def test_a_popular_model_gets_more_replicas_and_the_other_one_keeps_one(tokenizer: Tokenizer) -> None:
    table = Table(tokenizer, names=(MODEL, OTHER))
    for name, model_id in (("a", MODEL), ("b", MODEL), ("c", MODEL), ("d", OTHER)):
        table.add(name, "0:6", model_id=model_id)
    table.demand = {OTHER: 10_000.0, MODEL: 10.0}
    moves = []
    for at_s in range(int(START), 3000, 5):
        for order in table.orders(float(at_s)):
            moves.append(order.model_id)
            table.add(order.node_id, str(order.layers), model_id=order.model_id)
    assert moves == [OTHER, OTHER]
    assert sorted(each.spans[0].model_id for each in table.nodes.values()) == sorted([OTHER, OTHER, OTHER, MODEL])


def test_memory_is_shared_and_what_pinned_layers_take_is_left_out() -> None:
    wishes = (Wish(model_id="x", layers=LayerRange(0, 2)), Wish(model_id="y", layers=None), ANY)
    member = Member(node_id="a", wishes=wishes, precision=parse_precision("float32"), memory_bytes=900)
    assert member.budget_bytes({}) == 300
    assert member.budget_bytes({"x": 100}) == 300  # the KV takes its share
    assert member.budget_bytes({"x": 500}) == 200


@pytest.mark.parametrize(
    ("memories", "words"),
    [
        ((), "no node is there; me/small takes 0.0 MiB"),
        ((632,), ""),
        ((316, 316), ""),
        ((316, 216), "the 2 nodes present hold 5 of 6 layers at most; nodes with .* more are needed for layers 5:6"),
        ((90,) * 20, "layer 0 takes .* with its KV, the largest node has"),
    ],
)
def test_what_is_missing_is_said(tokenizer: Tokenizer, memories: tuple[int, ...], words: str) -> None:
    nodes = [node(f"n{i:02}", memory_bytes=memory) for i, memory in enumerate(memories)]
    text = what_is_missing(model(tokenizer), nodes)
    if words:
        assert re.search(words, text), text
    else:
        assert text == ""


def test_nodes_that_drain_hold_nothing(tokenizer: Tokenizer) -> None:
    assert "no node is there" in what_is_missing(model(tokenizer), [node("a", state="draining")])


def test_demand_fades() -> None:
    demand = Demand()
    demand.add("m", 1024, 0.0)
    assert demand.by_model(0.0) == {"m": pytest.approx(1024)}
    assert demand.by_model(2 * HALF_LIFE_S) == {"m": pytest.approx(256)}
    assert demand.by_model(20 * HALF_LIFE_S) == {}


def test_the_roster_knows_ranks_and_leaves_out_what_speaks_for_others() -> None:
    def record(name: str, address: str) -> bytes:
        return record_pb2.CoordinatorRecord(coordinator_id=name, grpc_address=address).SerializeToString()

    roster = Roster("m")
    assert (roster.rank, roster.addresses("me:1")) == (0, ("me:1",))
    roster.read({"b": record("b", "b:1"), "m": record("m", "me:1"), "a": record("z", "z:1"), "x": b"\xff",
                 "c": record("c", "c:1"), "p": record("p", "p:1")})  # fmt: skip
    assert roster.rank == 2
    assert roster.addresses("me:1") == ("me:1", "b:1", "c:1", "p:1")
    roster.read({})
    assert roster.rank == 0
