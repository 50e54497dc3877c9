"""When nodes are told to host other layers: the planner's moves, paced. Pure.

Several coordinators may look at one swarm. Each moves the nodes whose control streams it holds, and no others; the one
with the lowest id acts first, the next one only if what was wrong is still wrong so much later that it would have seen
the first one's move. So two never act on the same trouble at once, as long as news takes less than that.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from osai.coordinator.catalog import ServedModel
from osai.coordinator.placing.boards import Board, Key, Sizes, read_board
from osai.coordinator.placing.hosts import Hosts
from osai.coordinator.placing.lending import popular_move, with_lent
from osai.coordinator.placing.members import Member
from osai.coordinator.placing.planner import Move, PlannerConfig, plan
from osai.coordinator.placing.recalls import recalls
from osai.coordinator.swarm import NodeState
from osai.core.layers import LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalancingConfig:
    """How fast the swarm may change.

    Attributes:
        start_s: after the first look, in which nobody is moved: nodes that were there before dial in again meanwhile.
        gap_wait_s: for which a model must lack a pipeline until nodes are moved: a node that dials in anew is back by
            then, and news of a loss comes in some pieces.
        gain_wait_s: for which a better arrangement must be seen: nodes that come at once have settled by then.
        rank_wait_s: more for each coordinator of a lower id: above what news takes through the DHT.
        moves_per_hour: that are no repair; each costs its node some minutes of service.
        rest_s: for which a node that was moved is left alone, unless it is needed for a repair.
        answer_s: after which a node that was told to replace a span, and still serves it, is believed not to.
        order_s: after which a node that was told to host layers, and does not speak of them, is believed not to.
        refusal_s: for which a node is not offered again what it could not load.
    """

    planner: PlannerConfig = field(default_factory=PlannerConfig)
    start_s: float = 12.0
    gap_wait_s: float = 3.0
    gain_wait_s: float = 30.0
    rank_wait_s: float = 8.0
    moves_per_hour: int = 12
    rest_s: float = 600.0
    answer_s: float = 6.0
    order_s: float = 60.0
    refusal_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a node is to be told. `replace`: it hosts something in place of which this comes."""

    node_id: str
    model_id: str
    layers: LayerRange
    replace: bool
    why: str

    @property
    def urgent(self) -> bool:
        """Whether the model is not served until then."""
        return self.why == "gap"


@dataclass(frozen=True, slots=True)
class _Told:
    layers: LayerRange
    at_s: float


class Rebalancer:
    """Remembers what nodes were told, what they could not load, and how often something was moved."""

    def __init__(self, models: Sequence[ServedModel], config: RebalancingConfig | None = None) -> None:
        self._sizes = Sizes(models)
        self._config = config or RebalancingConfig()
        self._told: dict[Key, _Told] = {}
        self._failed: dict[Key, _Told] = {}
        self._since: dict[tuple[str, bool], float] = {}
        self._moved: dict[str, float] = {}
        self._gains: deque[float] = deque()
        self._unserved: set[str] = set()
        self._began_s: float | None = None
        self._planned: dict[tuple[str, str], tuple[Hosts, list[Move]]] = {}

    def decide(
        self,
        nodes: Sequence[NodeState],
        members: Mapping[str, Member],
        demand: Mapping[str, float],
        *,
        rank: int,
        now_s: float,
    ) -> list[Order]:
        """What to tell nodes now.

        Args:
            nodes: the swarm.
            members: nodes whose control streams are held here.
            demand: on each model, in any unit.
            rank: of this coordinator among those that live, by id; 0 acts first.
            now_s: monotonic.
        """
        boards = self.boards(nodes, members, now_s)
        proposed = self.proposals(boards, nodes, members, demand)
        return self.recalled(nodes, members) + self.allowed(proposed, rank=rank, now_s=now_s)

    def recalled(self, nodes: Sequence[NodeState], members: Mapping[str, Member]) -> list[Order]:
        """Moves under way that would open a gap by now: their nodes are told to stay, at once."""
        orders = []
        for model_id, model in self._sizes.models.items():
            for node_id, layers in recalls(model, nodes, members.keys()):
                self._told = {key: told for key, told in self._told.items() if key[0] != node_id}
                orders.append(Order(node_id=node_id, model_id=model_id, layers=layers, replace=True, why="recall"))
        return orders

    def boards(self, nodes: Sequence[NodeState], members: Mapping[str, Member], now_s: float) -> list[Board]:
        """Take in what nodes say, and what follows for each model."""
        self._hear(nodes, members, now_s)
        ordered = {key: told.layers for key, told in self._told.items()}
        refused = {
            key: frozenset((failed.layers,))
            for key, failed in self._failed.items()
            if now_s - failed.at_s < self._config.refusal_s
        }
        boards = [
            read_board(self._sizes, model_id, nodes, members, ordered=ordered, refused=refused)
            for model_id in self._sizes.models
        ]
        self._unserved = {
            board.model_id for board in boards if not any(hosts.routable(hosts.firm) for hosts in board.kinds.values())
        }
        return boards

    def proposals(
        self,
        boards: Sequence[Board],
        nodes: Sequence[NodeState],
        members: Mapping[str, Member],
        demand: Mapping[str, float],
    ) -> list[tuple[str, Move]]:
        """Moves that would do good, by model id. It may take a second: not on the loop."""
        found = []
        for board in boards:
            served = any(hosts.routable(hosts.current) for hosts in board.kinds.values())
            best = board if served else with_lent(board, boards, nodes, members, self._sizes)
            plans = [self._plan(board.model_id, kind, hosts) for kind, hosts in best.kinds.items()]
            if served:
                plans = [[move for move in moves if move.why != "gap"] for moves in plans]
                found += [(board.model_id, move) for moves in plans for move in moves]
            elif plans:  # one precision is enough, the one with the fewest layers to load
                repairs = [moves for moves in plans if any(move.why == "gap" for move in moves)] or plans
                cheapest = min(repairs, key=lambda moves: sum(len(move.layers) for move in moves))
                found += [(board.model_id, move) for move in cheapest]
        if not found and len(boards) > 1:
            gain = self._config.planner.min_gain
            moved = popular_move(boards, demand, nodes, members, self._sizes, gain)
            found += [moved] if moved else []
        return found

    def allowed(self, proposed: Sequence[tuple[str, Move]], *, rank: int, now_s: float) -> list[Order]:
        """Of the moves proposed those that are due; they count as carried out."""
        config = self._config
        if self._began_s is None:
            self._began_s = now_s
        if now_s - self._began_s < config.start_s:
            return []
        causes = {(model_id, move.is_urgent) for model_id, move in proposed}
        causes |= {(model_id, True) for model_id in self._unserved}  # also while no move would help
        self._since = {cause: self._since.get(cause, now_s) for cause in causes}
        while self._gains and now_s - self._gains[0] >= 3600:  # noqa: PLR2004 - seconds of an hour
            self._gains.popleft()
        orders = []
        for model_id, move in proposed:
            urgent = move.is_urgent
            wait_s = (config.gap_wait_s if urgent else config.gain_wait_s) + rank * config.rank_wait_s
            if now_s - self._since[model_id, urgent] < wait_s:
                continue
            rested = now_s - self._moved.get(move.node_id, -config.rest_s) >= config.rest_s
            if not urgent and (not rested or len(self._gains) >= config.moves_per_hour):
                continue
            orders.append(self._order(model_id, move, now_s))
        return orders

    def joined(self, node_id: str, model_id: str, layers: LayerRange, now_s: float) -> None:
        """A node was given layers when it joined."""
        self._told[node_id, model_id] = _Told(layers, now_s)

    def _order(self, model_id: str, move: Move, now_s: float) -> Order:
        if not move.is_urgent:
            self._gains.append(now_s)
        self._moved[move.node_id] = now_s
        self._told[move.node_id, model_id] = _Told(move.layers, now_s)
        return Order(
            node_id=move.node_id,
            model_id=model_id,
            layers=move.layers,
            replace=move.replaces is not None or move.lent,
            why=move.why,
        )

    def _plan(self, model_id: str, kind: str, hosts: Hosts) -> list[Move]:
        known = self._planned.get((model_id, kind))
        if known is None or known[0] != hosts:
            known = self._planned[model_id, kind] = hosts, plan(hosts, self._config.planner)
        return known[1]

    def _hear(self, nodes: Sequence[NodeState], members: Mapping[str, Member], now_s: float) -> None:
        config, failing = self._config, set()
        for node in nodes:
            for span in node.spans:
                key = node.node_id, span.model_id
                told, failed = self._told.get(key), self._failed.get(key)
                if span.state == "failed":
                    failing.add(key)
                    if failed is None or failed.layers != span.layers:
                        self._failed[key] = _Told(span.layers, now_s)
                if told is None:
                    continue
                ignored = span.state == "ready" and now_s - told.at_s >= config.answer_s
                if ignored or (span.layers == told.layers and span.state != "draining"):
                    del self._told[key]
        self._told = {
            key: told for key, told in self._told.items() if key[0] in members and now_s - told.at_s < config.order_s
        }
        self._failed = {
            key: failed
            for key, failed in self._failed.items()
            if key in failing or now_s - failed.at_s < config.refusal_s
        }
        self._moved = {node_id: at_s for node_id, at_s in self._moved.items() if now_s - at_s < config.rest_s}
