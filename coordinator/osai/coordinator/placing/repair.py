"""Makes a model routable again with the fewest layers loaded. Pure.

A shortest path over layer boundaries: spans that are there cost nothing, a span that a host would have to load costs
its layers. So after the loss of one node no more layers are loaded than it held, where one host has room for them.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from osai.coordinator.placing.hosts import Hosts
from osai.core.layers import LayerRange

WIDTH = 6  # ways to each boundary that are kept: they differ in the hosts that they use up
MAX_ENDS = 8  # where a new span may end: the nearest beginnings of others
MAX_MOVERS = 16  # hosts that are thought of as movers at most; more make it slower, hardly better

Cost = tuple[int, int, int, float]  # layers loaded, movers that alone hold some layer, moves, seconds of a step


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    cost: Cost
    moves: tuple[tuple[int, LayerRange], ...]  # host, new span
    used: frozenset[int]


def repair(hosts: Hosts) -> tuple[tuple[int, LayerRange], ...] | None:
    """New spans by place of the host that make the model routable; None where the hosts can't hold it.

    Who moves holds nothing meanwhile: its old span is no part of the way.
    """
    missing = _missing_from(hosts)
    return _repair(hosts, missing, missing[0]) or _repair(hosts, missing, sum(missing) + hosts.num_layers)


def _repair(hosts: Hosts, missing: list[int], most: int) -> tuple[tuple[int, LayerRange], ...] | None:
    """As `repair`, with at most so many layers loaded."""
    movers = _movers(hosts)
    starting = _starting(hosts, movers)
    ends = sorted({span.start for span in hosts.current if span} | {hosts.num_layers})
    ways: list[list[_Way]] = [[] for _ in range(hosts.num_layers + 1)]
    ways[0].append(_Way(cost=(0, 0, 0, 0.0), moves=(), used=frozenset()))
    for bound in range(hosts.num_layers):
        for way in ways[bound]:
            if way.cost[0] + missing[bound] > most:
                continue
            for uses, end in starting.get(bound, ()):
                if not uses & way.used:
                    _keep(ways[end], _Way(cost=way.cost, moves=way.moves, used=way.used | uses))
            for index, is_sole in movers.items():
                if index not in way.used:
                    for span in _spans(hosts, index, bound, ends, most - way.cost[0]):
                        moved = _moved(hosts, way, index, span, is_sole=is_sole)
                        if moved.cost[0] + missing[span.end] <= most:
                            _keep(ways[span.end], moved)
    last = ways[hosts.num_layers]
    return last[0].moves if last else None


def _missing_from(hosts: Hosts) -> list[int]:
    """Layers to load at least for a way from each boundary on, whoever has room for them."""
    spans = {span for span in hosts.current if span}
    missing = [0] * (hosts.num_layers + 1)
    for bound in range(hosts.num_layers - 1, -1, -1):
        missing[bound] = min([missing[bound + 1] + 1, *(missing[span.end] for span in spans if span.start == bound)])
    return missing


def _starting(hosts: Hosts, movers: Mapping[int, bool]) -> dict[int, list[tuple[frozenset[int], int]]]:
    """Spans that are there, by where they begin: the mover that each uses up, and its end."""
    holders: dict[LayerRange, list[frozenset[int]]] = {}
    for index, span in enumerate(hosts.current):
        if span is not None:
            holders.setdefault(span, []).append(frozenset((index,)) if index in movers else frozenset())
    starting: dict[int, list[tuple[frozenset[int], int]]] = {}
    for span, used in holders.items():
        free = [uses for uses in used if not uses]  # of equal spans one that stays anyway is enough
        starting.setdefault(span.start, []).extend((uses, span.end) for uses in free[:1] or used[:WIDTH])
    return starting


def _movers(hosts: Hosts) -> Mapping[int, bool]:
    """Hosts to think of, and whether each alone holds some layer: those of no use now first, then the largest."""
    holders = [0] * hosts.num_layers
    for span in hosts.current:
        for layer in range(span.start, span.end) if span else ():
            holders[layer] += 1
    sole = {
        index: any(holders[layer] == 1 for layer in range(host.layers.start, host.layers.end)) if host.layers else False
        for index, host in enumerate(hosts.hosts)
        if host.movable and (host.ready or host.layers is None)  # who loads goes on
    }
    order = sorted(sole, key=lambda index: _rank(hosts, index, is_sole=sole[index]))
    half = MAX_MOVERS // 2
    sole_ones = [index for index in order if sole[index]]
    chosen = [index for index in order if not sole[index]][: MAX_MOVERS - min(half, len(sole_ones))]
    return {index: sole[index] for index in (*chosen, *sole_ones[: MAX_MOVERS - len(chosen)])}


def _rank(hosts: Hosts, index: int, *, is_sole: bool) -> tuple[bool, bool, bool, int, float]:
    host = hosts.hosts[index]
    return is_sole, host.layers is not None, host.lent, -host.memory_bytes, host.layer_s


def _spans(hosts: Hosts, index: int, start: int, ends: list[int], room: int) -> Iterator[LayerRange]:
    """Spans from `start` that a host could load: up to where others begin, and as far as it can; `room` new layers."""
    host = hosts.hosts[index]
    held = host.layers
    overlap = len(held) if held is not None and held.end > start else 0
    if room + overlap == 0:
        return
    reach = min(hosts.reach(host, start), start + room + overlap)
    first = bisect_right(ends, start)
    nearest = ends[first : min(bisect_right(ends, reach), first + MAX_ENDS)]
    for end in (*nearest, reach) if reach > start and reach not in nearest else nearest:
        if (span := LayerRange(start, end)) != host.layers and hosts.fits(host, span):
            yield span


def _moved(hosts: Hosts, way: _Way, index: int, span: LayerRange, *, is_sole: bool) -> _Way:
    host = hosts.hosts[index]
    held = host.layers
    kept = max(0, min(span.end, held.end) - max(span.start, held.start)) if held else 0
    loaded, num_sole, num_moves, step_s = way.cost
    alone = is_sole or host.lent
    cost = (loaded + len(span) - kept, num_sole + alone, num_moves + 1, step_s + host.layer_s * len(span))
    return _Way(cost=cost, moves=(*way.moves, (index, span)), used=way.used | {index})


def _keep(ways: list[_Way], way: _Way) -> None:
    """Among the best ways to a boundary; one that uses all that a better one uses, and more, is of no use."""
    if any(kept.cost <= way.cost and kept.used <= way.used for kept in ways):
        return
    ways[:] = [kept for kept in ways if not (way.cost <= kept.cost and way.used <= kept.used)]
    ways.append(way)
    ways.sort(key=lambda kept: kept.cost)
    del ways[WIDTH:]
