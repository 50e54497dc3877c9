"""Better arrangements of one model's spans: local search from what is there and from fresh tilings. Pure.

Steps of the search: one host takes the span that is best given the others; two hosts trade spans; a boundary between
spans shifts, for all that touch it. Spans begin and end at few boundaries, so that they join.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from random import Random

from osai.coordinator.placing.hosts import Arrangement, Hosts, Spans, Worth, replaced
from osai.coordinator.placing.placement import place
from osai.coordinator.swarm import replicas
from osai.core.layers import LayerRange

FEW_LAYERS = 8  # of such a model every boundary is tried
NUM_KICKS = 200  # finds the optimum of nearly every small swarm; of large ones the budget ends the search before
KICK_SIZES = (2, 3, 3, 4)  # hosts that a kick moves
_EQUAL = 1e-9  # relative: of two worths


class Budget:
    """Arrangements that a search may still weigh."""

    def __init__(self, count: int) -> None:
        self._left = count

    @property
    def is_spent(self) -> bool:
        """Whether none is left."""
        return self._left <= 0

    def spent(self) -> bool:
        """One more is weighed; whether there were none left."""
        self._left -= 1
        return self._left < 0


def better(worth: Worth, than: Worth) -> bool:
    """Whether a worth is greater by more than rounding."""
    if abs(worth.steps - than.steps) > _EQUAL * max(worth.steps, than.steps):
        return worth.steps > than.steps
    return worth.soft > than.soft * (1 + _EQUAL)


def climb(hosts: Hosts, start: Arrangement, budget: Budget) -> Arrangement:
    """Take steps that make an arrangement better, until none does or the budget is spent."""
    best, best_worth = start, hosts.worth(start)
    improved = True
    while improved:
        improved = False
        for kind in (_respans, _trades, _shifts):
            for index in range(len(hosts.hosts)):
                for candidate in kind(hosts, best, index):
                    if not hosts.knows(candidate):
                        if min(hosts.speeds(candidate)) < best_worth.steps:  # no flow is greater
                            continue
                        if budget.spent():
                            return best
                    if better(worth := hosts.worth(candidate), best_worth):
                        best, best_worth, improved = candidate, worth, True
            if improved and kind is not _respans:
                break
    return best


def spans_of(hosts: Hosts, arrangement: Arrangement, index: int) -> Spans:
    """Spans that a host could take and that are likely to join the others'."""
    num_layers = hosts.num_layers
    if num_layers <= FEW_LAYERS:
        return hosts.spans_between(index, frozenset(range(num_layers + 1)))
    others = [span for i, span in enumerate(arrangement) if i != index and span is not None]
    bounds = {0, num_layers, *(span.start for span in others), *(span.end for span in others)}
    return hosts.spans_between(index, frozenset(bounds))


def _respans(hosts: Hosts, arrangement: Arrangement, index: int) -> Iterator[Arrangement]:
    if not hosts.hosts[index].movable:
        return
    for span in spans_of(hosts, arrangement, index):
        if span != arrangement[index]:
            yield replaced(arrangement, index, span)


def _trades(hosts: Hosts, arrangement: Arrangement, index: int) -> Iterator[Arrangement]:
    mine, host = arrangement[index], hosts.hosts[index]
    for other in range(index):
        theirs = arrangement[other]
        if mine == theirs or not host.movable or not hosts.hosts[other].movable:
            continue
        if (theirs is None or hosts.fits(host, theirs)) and (mine is None or hosts.fits(hosts.hosts[other], mine)):
            yield replaced(replaced(arrangement, index, theirs), other, mine)


def _shifts(hosts: Hosts, arrangement: Arrangement, index: int) -> Iterator[Arrangement]:
    """Boundary at the end of a host's span, by one layer, two, four...; all that touch it go along."""
    span = arrangement[index]
    if span is None or span.end == hosts.num_layers:
        return
    step = 1
    while step < hosts.num_layers:
        for to in (span.end - step, span.end + step):
            if 0 < to < hosts.num_layers and (shifted := _shifted(hosts, arrangement, span.end, to)) is not None:
                yield shifted
        step *= 2


def _shifted(hosts: Hosts, arrangement: Arrangement, bound: int, to: int) -> Arrangement | None:
    moved: list[LayerRange | None] = []
    for host, span in zip(hosts.hosts, arrangement, strict=True):
        if span is None or bound not in (span.start, span.end):
            moved.append(span)
            continue
        start, end = (to, span.end) if span.start == bound else (span.start, to)
        if not host.movable or start >= end or not hosts.fits(host, LayerRange(start, end)):
            return None
        moved.append(LayerRange(start, end))
    return tuple(moved)


def fresh_starts(hosts: Hosts) -> Iterator[Arrangement]:
    """Arrangements to begin with besides the present one; those who may not move stay."""
    order = range(len(hosts.hosts))
    by_memory = sorted(order, key=lambda i: (-hosts.hosts[i].memory_bytes, hosts.hosts[i].layer_s, i))
    by_speed = sorted(order, key=lambda i: (hosts.hosts[i].layer_s, -hosts.hosts[i].memory_bytes, i))
    for indices in (by_memory, by_memory[::-1], by_speed):
        yield _joined(hosts, indices)
    most = min(len(hosts.hosts), hosts.num_layers)
    for count in range(1, most + 1):
        yield _tiled(hosts, by_memory, count)


def _fixed(hosts: Hosts) -> list[LayerRange | None]:
    return [None if host.movable else host.layers for host in hosts.hosts]


def _joined(hosts: Hosts, indices: Iterable[int]) -> Arrangement:
    """As if they joined one after the other."""
    spans = _fixed(hosts)
    for index in indices:
        host = hosts.hosts[index]
        if host.movable:
            counts = replicas([span for span in spans if span is not None], hosts.num_layers)
            span = place(hosts.size, counts, host.memory_bytes)
            spans[index] = span if span is not None and hosts.fits(host, span) else None
    return tuple(spans)


def _tiled(hosts: Hosts, indices: Sequence[int], count: int) -> Arrangement:
    """In `count` stages of nearly equal length, each host at the weakest stage that fits on it."""
    spans = _fixed(hosts)
    cuts = [hosts.num_layers * i // count for i in range(count + 1)]
    stages = [LayerRange(start, end) for start, end in pairwise(cuts)]
    rates = dict.fromkeys(stages, 0.0)
    for index in indices:
        host = hosts.hosts[index]
        fitting = [stage for stage in stages if hosts.fits(host, stage)]
        if host.movable and fitting:
            stage = min(fitting, key=lambda stage: rates[stage])
            rates[stage] += host.rate(stage)
            spans[index] = stage
    return tuple(spans)


def kicked(hosts: Hosts, arrangement: Arrangement, dice: Random) -> Arrangement:
    """The arrangement with random spans for some hosts: a way out of where no single step leads on."""
    movable = [i for i, host in enumerate(hosts.hosts) if host.movable]
    for index in dice.sample(movable, min(len(movable), dice.choice(KICK_SIZES))):
        spans = spans_of(hosts, arrangement, index)
        if spans:
            arrangement = replaced(arrangement, index, dice.choice(spans))
    return arrangement


def search(hosts: Hosts, start: Arrangement, budget: Budget) -> list[Arrangement]:
    """Arrangements worth having, the best first: from `start`, from fresh tilings, and by kicks from the best ones."""
    found = {climb(hosts, each, budget) for each in (start, *fresh_starts(hosts))}
    dice = Random(0)  # noqa: S311 - the same input gives the same plan
    for number in range(NUM_KICKS):
        if budget.is_spent:
            break
        ranked = sorted(found, key=lambda each: (hosts.worth(each), _order(each)), reverse=True)
        of = ranked[0] if number % 2 else dice.choice(ranked)  # the best alone would lead back to itself
        found.add(climb(hosts, kicked(hosts, of, dice), budget))
    return sorted(found, key=lambda each: (hosts.worth(each), _order(each)), reverse=True)


def _order(arrangement: Arrangement) -> tuple[tuple[int, int], ...]:
    """Breaks ties the same way every time."""
    return tuple((span.start, span.end) if span else (-1, -1) for span in arrangement)
