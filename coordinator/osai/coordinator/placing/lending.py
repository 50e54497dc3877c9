"""Nodes that serve one model because any would do, and could serve another one that needs them more. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from osai.coordinator.placing.boards import Board, Sizes
from osai.coordinator.placing.hosts import Host, Hosts, replaced
from osai.coordinator.placing.members import Member
from osai.coordinator.placing.planner import Move, best_span, is_safe
from osai.coordinator.swarm import NodeState

MAX_LENT = 16  # nodes that are thought of, the largest ones


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loan:
    lender: Board
    kind: str  # of the lender's
    index: int  # in the lender's hosts
    member: Member


def with_lent(
    board: Board, boards: Sequence[Board], nodes: Sequence[NodeState], members: Mapping[str, Member], sizes: Sizes
) -> Board:
    """The board of a model that is not routable, with hosts whom other models can spare besides."""
    kinds = dict(board.kinds)
    for loan in _loans(board.model_id, boards, nodes, members):
        kind = sizes.kind(board.model_id, loan.member.precision)
        size = sizes.size(board.model_id, kind)
        hosts = kinds.get(kind) or Hosts(size, ())
        kinds[kind] = Hosts(size, (*hosts.hosts, _lent(loan, sizes)))
    return replace(board, kinds=kinds)


def popular_move(
    boards: Sequence[Board],
    demand: Mapping[str, float],
    nodes: Sequence[NodeState],
    members: Mapping[str, Member],
    sizes: Sizes,
    min_gain: float,
) -> tuple[str, Move] | None:
    """One node from the model with the least demand on its throughput to the one with the most, if that eases it.

    Args:
        boards: of models that are routable.
        demand: tokens a second, or anything in proportion, by model.
        nodes: the swarm.
        members: nodes that this coordinator can move.
        sizes: of the models.
        min_gain: by which the greatest demand on throughput must fall.
    """
    steps = {board.model_id: _steps(board) for board in boards}
    loads = {name: demand.get(name, 0.0) / rate for name, rate in steps.items() if rate > 0}
    hot = max(loads, key=lambda name: (loads[name], name), default="")
    if not hot or loads[hot] <= 0:
        return None
    board = next(board for board in boards if board.model_id == hot)
    best: tuple[float, Move] | None = None
    for loan in _loans(hot, [each for each in boards if each.model_id in loads], nodes, members):
        gained = with_one(board, loan, sizes)
        if gained is None:
            continue
        move, hot_steps = gained
        lender = loan.lender.kinds[loan.kind]
        left = steps[loan.lender.model_id] - lender.worth(lender.current).steps
        left += lender.worth(replaced(lender.current, loan.index, None)).steps
        after = max(demand[hot] / hot_steps, demand.get(loan.lender.model_id, 0.0) / left)
        if after < loads[hot] / (1 + min_gain) and (best is None or after < best[0]):
            best = after, move
    return (hot, best[1]) if best else None


def with_one(board: Board, loan: _Loan, sizes: Sizes) -> tuple[Move, float] | None:
    """What one lent host would take, and the model's throughput with it."""
    kind = sizes.kind(board.model_id, loan.member.precision)
    own = board.kinds.get(kind) or Hosts(sizes.size(board.model_id, kind), ())
    hosts = Hosts(own.size, (*own.hosts, _lent(loan, sizes)))
    index = len(own.hosts)
    span = best_span(hosts, index)
    if span is None:
        return None
    gain = hosts.worth(replaced(hosts.current, index, span)).steps - hosts.worth(hosts.current).steps
    host = hosts.hosts[index]
    move = Move(node_id=host.node_id, layers=span, replaces=None, why="popular", lent=True)
    return move, _steps(board) + gain


def _loans(
    model_id: str, boards: Sequence[Board], nodes: Sequence[NodeState], members: Mapping[str, Member]
) -> list[_Loan]:
    by_id = {node.node_id: node for node in nodes}
    loans = []
    for board in boards:
        if board.model_id == model_id:
            continue
        for kind, hosts in board.kinds.items():
            for index, host in enumerate(hosts.hosts):
                member, node = members.get(host.node_id), by_id.get(host.node_id)
                if member is None or node is None or not (host.ready and host.movable and host.layers):
                    continue
                held = [span.model_id for span in node.spans if span.state != "failed"]
                if member.any_slot(held) == board.model_id and member.wish_for(model_id) == member.wish_for(""):
                    loans.append(_Loan(lender=board, kind=kind, index=index, member=member))
    loans.sort(key=lambda loan: -_host(loan).memory_bytes)
    return [loan for loan in loans[:MAX_LENT] if is_safe(loan.lender.kinds[loan.kind], loan.index)]


def _host(loan: _Loan) -> Host:
    return loan.lender.kinds[loan.kind].hosts[loan.index]


def _lent(loan: _Loan, sizes: Sizes) -> Host:
    memory_bytes = sizes.budget(loan.member)
    return replace(_host(loan), layers=None, ready=False, lent=True, memory_bytes=memory_bytes, refused=frozenset())


def _steps(board: Board) -> float:
    return sum(hosts.worth(hosts.current).steps for hosts in board.kinds.values())
