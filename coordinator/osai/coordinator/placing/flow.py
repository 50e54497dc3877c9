"""What spans can serve together: the largest flow of steps from layer 0 to the last one. Pure.

Boundaries between layers are vertices, a span is an edge from its start to its end, with as many steps a second as its
node can run: so spans count only as far as others join them end to end, and a pipeline may fork and meet again.
"""

from collections.abc import Iterable, Mapping

Edge = tuple[int, int]  # from the boundary before a span's first layer to the one after its last
_NOTHING = 1e-12  # of the largest rate: what rounding leaves over is no capacity


def gathered(edges: Iterable[tuple[int, int, float]]) -> dict[Edge, float]:
    """Rates of equal spans added up."""
    rates: dict[Edge, float] = {}
    for start, end, rate in edges:
        rates[start, end] = rates.get((start, end), 0.0) + rate
    return rates


def joins(edges: Iterable[Edge], num_layers: int) -> bool:
    """Whether some of the spans join end to end from layer 0 to the last one."""
    ends: dict[int, list[int]] = {}
    for start, end in edges:
        ends.setdefault(start, []).append(end)
    reached, waiting = {0}, [0]
    while waiting:
        for end in ends.get(waiting.pop(), ()):
            if end not in reached:
                reached.add(end)
                waiting.append(end)
    return num_layers in reached


def throughput(rates: Mapping[Edge, float], num_layers: int) -> float:
    """Steps a second that the spans can serve together: the maximum flow (Dinic's algorithm).

    Args:
        rates: steps a second by span.
        num_layers: of the model.
    """
    least = _NOTHING * max(rates.values(), default=0.0)
    room: dict[int, dict[int, float]] = {0: {}, num_layers: {}}
    for (start, end), rate in rates.items():
        room.setdefault(start, {})[end] = rate
        room.setdefault(end, {}).setdefault(start, 0.0)
    total = 0.0
    while levels := _levels(room, num_layers, least):
        untried = {vertex: list(room[vertex]) for vertex in levels}
        while pushed := _push(room, levels, untried, 0, num_layers, float("inf"), least):
            total += pushed
    return total


def _levels(room: dict[int, dict[int, float]], sink: int, least: float) -> dict[int, int]:
    """Edges from layer 0 to each vertex; empty where the last one is out of reach."""
    levels, front = {0: 0}, [0]
    while front and sink not in levels:
        further = []
        for vertex in front:
            for end, rate in room[vertex].items():
                if rate > least and end not in levels:
                    levels[end] = levels[vertex] + 1
                    further.append(end)
        front = further
    return levels if sink in levels else {}


def _push(
    room: dict[int, dict[int, float]],
    levels: dict[int, int],
    untried: dict[int, list[int]],
    vertex: int,
    sink: int,
    limit: float,
    least: float,
) -> float:
    """Send as much as one path takes; 0 where none is left."""
    if vertex == sink:
        return limit
    ends = untried[vertex]
    while ends:
        end = ends[-1]
        rate = room[vertex][end]
        if rate > least and levels.get(end, -1) == levels[vertex] + 1:
            pushed = _push(room, levels, untried, end, sink, min(limit, rate), least)
            if pushed:
                room[vertex][end] -= pushed
                room[end][vertex] += pushed
                return pushed
        ends.pop()
    return 0.0
