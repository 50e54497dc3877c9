"""Which node is to host other layers of a model, and when that is worth it. Pure.

In order: every model routable end to end; throughput; few nodes whose loss would end that. A move is planned only where
the model stays routable while the node that moves holds nothing, and where it gains enough to be worth the loading.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from osai.coordinator.placing.arrange import Budget, search, spans_of
from osai.coordinator.placing.hosts import Arrangement, Hosts, replaced
from osai.coordinator.placing.many import one_of_many
from osai.coordinator.placing.placement import place
from osai.coordinator.placing.repair import repair
from osai.coordinator.swarm import replicas
from osai.core.layers import LayerRange

ALMOST = 0.99  # of a throughput: as good, where it costs fewer moves or brings a second holder
WORTH_MORE = 1.05  # throughput after, by which another span than `place`'s is better
MAX_LIKELY = 200  # spans weighed for one host


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerConfig:
    """What a plan is worth.

    Attributes:
        min_gain: of throughput, for a move or a series of them: loading takes minutes, in which a node serves nobody.
        few_hosts: up to so many all arrangements are searched; with more, `min_gain` shrinks in proportion, since one
            node is less of the whole, and single moves are weighed.
        budget: arrangements weighed at most: some 20 us each.
    """

    min_gain: float = 0.2
    few_hosts: int = 12
    budget: int = 8000

    def needed_gain(self, num_hosts: int) -> float:
        """What a move must gain in a swarm of so many hosts."""
        return self.min_gain * min(1.0, self.few_hosts / max(num_hosts, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A node is to host `layers` in place of `replaces` (None: of nothing). `why`: "gap", "spare" or "gain"."""

    node_id: str
    layers: LayerRange
    replaces: LayerRange | None
    why: str
    lent: bool = False

    @property
    def is_urgent(self) -> bool:
        """Whether it gives service that is not there, and takes none away."""
        return self.why in ("gap", "spare")


def plan(hosts: Hosts, config: PlannerConfig) -> list[Move]:
    """What to do now: moves that close a gap, all at once; else at most one that makes a model better.

    Where some host loads or drains, nothing but a gap is worth a second move.
    """
    if not hosts.routable(hosts.current):
        moves = repair(hosts)
        if moves is None:
            return _spares(hosts)  # what can be held is held, until more nodes come
        return [_move(hosts, index, span, "gap") for index, span in moves]
    unsettled = any(host.layers is not None and not host.ready for host in hosts.hosts)
    if unsettled or not hosts.routable(hosts.firm):
        return []
    if spare := next(_best_spares(hosts), None):
        return [spare]
    if len(hosts.hosts) > config.few_hosts:
        found = one_of_many(hosts, config.needed_gain(len(hosts.hosts)))
        return [_move(hosts, *found, "gain")] if found else []
    return _improved(hosts, config)


def _improved(hosts: Hosts, config: PlannerConfig) -> list[Move]:
    """The first safe step to the best arrangement that gains enough, of equal ones the nearest."""
    present = hosts.worth(hosts.current)
    needed = present.steps * (1 + config.needed_gain(len(hosts.hosts)))
    found = search(hosts, hosts.current, Budget(config.budget))
    found = [target for target in found if hosts.worth(target).steps >= needed]
    best = max((hosts.worth(target).steps for target in found), default=0.0)
    found.sort(key=lambda target: (hosts.worth(target).steps < best * ALMOST, _loaded(hosts, target)))
    for target in [*found, *_more_robust(hosts)]:
        if step := _safe_step(hosts, target):
            return [_move(hosts, *step, "gain")]
    return []


def _more_robust(hosts: Hosts) -> list[Arrangement]:
    """One move from here: fewer hosts whose loss ends the service, at hardly any loss of throughput; the best first."""
    present, steps = hosts.current, hosts.worth(hosts.current).steps
    needed = num_critical(hosts, present)
    if needed == 0:
        return []
    targets = [
        replaced(present, index, span)
        for index, host in enumerate(hosts.hosts)
        if host.movable
        for span in spans_of(hosts, present, index)
    ]
    targets = [each for each in targets if hosts.worth(each).steps >= steps * ALMOST]
    counted = [(num_critical(hosts, each), _loaded(hosts, each), i) for i, each in enumerate(targets)]
    return [targets[i] for count, _, i in sorted(counted) if count < needed]


def num_critical(hosts: Hosts, arrangement: Arrangement) -> int:
    """Hosts without any one of which the model is not routable: 0 where every layer has a second holder that joins."""
    indices = range(len(hosts.hosts))
    return sum(arrangement[i] is not None and not hosts.routable(replaced(arrangement, i, None)) for i in indices)


def _safe_step(hosts: Hosts, target: Arrangement) -> tuple[int, LayerRange] | None:
    """The first of single moves that lead to `target`, the model routable during and after each; None: there are none.

    All of them must be there before the first is made: half of the way may be no gain, and lead back again.
    """
    first, present = None, hosts.current
    while present != target:
        step = _next_step(hosts, present, target)
        if step is None:
            return None
        first, present = first or step, replaced(present, *step)
    return first


def _next_step(hosts: Hosts, present: Arrangement, target: Arrangement) -> tuple[int, LayerRange] | None:
    steps = [
        (index, span)
        for index, span in enumerate(target)
        if span is not None
        and span != present[index]
        and hosts.routable(replaced(present, index, None))
        and hosts.routable(replaced(present, index, span))
    ]
    return max(steps, key=lambda step: (hosts.worth(replaced(present, *step)), -step[0]), default=None)


def is_safe(hosts: Hosts, index: int) -> bool:
    """Whether the model is served end to end while a host holds nothing."""
    return hosts.routable(replaced(hosts.firm, index, None))


def _spares(hosts: Hosts) -> list[Move]:
    """Layers for every host that holds nothing, though together they can't hold the model."""
    spans, moves = [span for span in hosts.current if span is not None], []
    for index, host in enumerate(hosts.hosts):
        if host.layers is None and host.movable and not host.lent:
            span = place(hosts.size, replicas(spans, hosts.num_layers), host.memory_bytes)
            if span is not None and hosts.fits(host, span):
                spans.append(span)
                moves.append(_move(hosts, index, span, "spare"))
    return moves


def _best_spares(hosts: Hosts) -> Iterator[Move]:
    for index, host in enumerate(hosts.hosts):
        if host.layers is None and host.movable and not host.lent and (span := best_span(hosts, index)):
            yield _move(hosts, index, span, "spare")


def best_span(hosts: Hosts, index: int) -> LayerRange | None:
    """The span for a host that holds nothing of a model that is served: `place`'s, unless another one gains more."""
    host, present = hosts.hosts[index], hosts.current
    usual = place(hosts.size, replicas([span for span in present if span], hosts.num_layers), host.memory_bytes)
    if usual is not None and not hosts.fits(host, usual):
        usual = None
    spans: Iterable[LayerRange] = _likely(hosts, index)
    best = max(spans, key=lambda span: (hosts.worth(replaced(present, index, span)), -span.start), default=None)
    if usual is None or best is None:
        return usual or best
    gain = hosts.worth(replaced(present, index, best)).steps / hosts.worth(replaced(present, index, usual)).steps
    return best if gain > WORTH_MORE else usual


def _likely(hosts: Hosts, index: int) -> list[LayerRange]:
    if len(hosts.hosts) > MAX_LIKELY:  # one of so many: weighing costs more than it gains
        return []
    return list(spans_of(hosts, hosts.current, index))[:MAX_LIKELY]


def _loaded(hosts: Hosts, target: Arrangement) -> int:
    return sum(len(span) for host, span in zip(hosts.hosts, target, strict=True) if span and span != host.layers)


def _move(hosts: Hosts, index: int, span: LayerRange, why: str) -> Move:
    host = hosts.hosts[index]
    return Move(node_id=host.node_id, layers=span, replaces=host.layers, why=why, lent=host.lent)
