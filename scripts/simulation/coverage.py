"""What is true of the swarm, whatever coordinators believe: is every layer served, and could it be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scripts.simulation.hosts import Host
from scripts.simulation.node import SimulatedNode

from osai.coordinator.swarm import joined
from osai.core.layers import LayerRange

NEWS_S = 5.0  # in which every coordinator hears of a span, by the DHT if need be, into which it looks every 2 s


@dataclass(slots=True, eq=False)
class Gap:
    """A time in which no pipeline joined on one side of the network.

    Attributes:
        begun_s, ended_s: simulated seconds.
        capacity_s: its longest part in which whoever was up could have held the model at every moment, if with others
            from moment to moment, and some coordinator was up.
        lasting_s: its longest part throughout which the same processes were up, enough to hold the model, and a
            coordinator among them: they had that long to put it right.
    """

    begun_s: float
    ended_s: float | None = None
    capacity_s: float = 0.0
    lasting_s: float = 0.0

    def overlaps(self, begin_s: float, end_s: float) -> bool:
        """Whether it was there at some time between the two."""
        return self.begun_s <= end_s and (self.ended_s is None or self.ended_s >= begin_s)


@dataclass(slots=True, eq=False)
class _Open:
    """A gap that goes on."""

    gap: Gap
    capacity_since_s: float | None = None
    up_since_s: dict[Host, float] = field(default_factory=dict)  # within the gap


class Coverage:
    """Follows coverage and capacity.

    Args:
        num_layers: of the model.
        clock: gives simulated seconds.

    Attributes:
        gaps: in order of their beginnings.
        news: times in which no pipeline joined of spans that had been there for NEWS_S.
    """

    def __init__(self, num_layers: int, clock: Callable[[], float]) -> None:
        self.gaps: list[Gap] = []
        self.news: list[Gap] = []
        self._ready_s: dict[tuple[Host, LayerRange], float] = {}  # since when
        self._num_layers = num_layers
        self._clock = clock
        self._open: dict[bool, _Open] = {}
        self._was_partitioned = False

    def look(
        self,
        nodes: Sequence[SimulatedNode],
        coordinators: Sequence[Host],
        side_of: Callable[[str], bool],
        *,
        partitioned: bool,
    ) -> None:
        """Take in how things are now.

        Args:
            nodes: that do something.
            coordinators: that are up.
            side_of: on which side of the network the host of an id is.
            partitioned: the network has two sides.
        """
        if partitioned != self._was_partitioned:  # who can speak with whom is new: clocks begin anew
            self._was_partitioned = partitioned
            self.end()
        ready = [(node.host, layers) for node in nodes for layers in ready_spans(node)]
        known, covered = self._known(ready), True
        for side in (False, True) if partitioned else (False,):

            def here(host: Host, side: bool = side) -> bool:
                return not partitioned or side_of(host.id) == side

            if joined((layers for host, layers in ready if here(host)), self._num_layers):
                self._close(side)
            else:
                self._look([node for node in nodes if here(node.host)], list(filter(here, coordinators)), side=side)
            covered = covered and joined((layers for host, layers in known if here(host)), self._num_layers)
        if not covered and (not self.news or self.news[-1].ended_s is not None):
            self.news.append(Gap(begun_s=self._clock()))
        elif covered and self.news and self.news[-1].ended_s is None:
            self.news[-1].ended_s = self._clock()

    def end(self) -> None:
        """Close what is open."""
        for side in tuple(self._open):
            self._close(side)

    def _known(self, ready: Sequence[tuple[Host, LayerRange]]) -> list[tuple[Host, LayerRange]]:
        """Spans that have been there for long enough for every coordinator to know."""
        now_s = self._clock()
        self._ready_s = {each: self._ready_s.get(each, now_s) for each in ready}
        return [each for each, since_s in self._ready_s.items() if now_s - since_s >= NEWS_S]

    def _look(self, nodes: Sequence[SimulatedNode], coordinators: Sequence[Host], *, side: bool) -> None:
        """No pipeline joins there."""
        now_s = self._clock()
        if side not in self._open:
            self._open[side] = _Open(Gap(begun_s=now_s))
            self.gaps.append(self._open[side].gap)
        opened, stayers = self._open[side], [node for node in nodes if not node.is_draining]
        if not coordinators or sum(node.machine.num_layers for node in stayers) < self._num_layers:
            opened.capacity_since_s = None
        else:
            since_s = opened.capacity_since_s = now_s if opened.capacity_since_s is None else opened.capacity_since_s
            opened.gap.capacity_s = max(opened.gap.capacity_s, now_s - since_s)
        lasting_s = self._lasting_s(opened, stayers, coordinators)
        opened.gap.lasting_s = max(opened.gap.lasting_s, lasting_s)

    def _lasting_s(self, opened: _Open, nodes: Sequence[SimulatedNode], coordinators: Sequence[Host]) -> float:
        """For how long those who have been up all that time could have held the model."""
        now_s = self._clock()
        hosts = [*(node.host for node in nodes), *coordinators]
        since_s = opened.up_since_s = {host: opened.up_since_s.get(host, now_s) for host in hosts}
        num_layers = 0
        for node in sorted(nodes, key=lambda node: since_s[node.host]):
            num_layers += node.machine.num_layers
            if num_layers >= self._num_layers:
                coordinator_s = min((since_s[host] for host in coordinators), default=now_s)
                return now_s - max(coordinator_s, since_s[node.host])
        return 0.0

    def _close(self, side: bool) -> None:
        opened = self._open.pop(side, None)
        if opened is not None:
            opened.gap.ended_s = self._clock()


def ready_spans(node: SimulatedNode) -> list[LayerRange]:
    """What takes sessions now."""
    return [] if node.is_draining else [span.layers for span in node.spans if span.state == "ready"]
