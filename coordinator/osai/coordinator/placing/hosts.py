"""One model as the planner sees it: who could hold what of it, and what an arrangement of spans is worth. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from osai.coordinator.placing.flow import gathered, joins, throughput
from osai.coordinator.placing.placement import ModelSize
from osai.core.layers import LayerRange

SOFTNESS = 4  # of the soft minimum over layers: high enough that the weakest layers rule it


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One node's part in one model.

    Attributes:
        memory_bytes: what a span of the model may take there.
        layer_s: seconds of one layer of a decode step, measured or guessed.
        layers: what it holds, or is loading; None for nothing.
        ready: it serves `layers` now.
        movable: it may be given other layers.
        refused: spans that it could not load lately.
        lent: it serves another model now, and would have to leave that.
    """

    node_id: str
    memory_bytes: int
    layer_s: float
    layers: LayerRange | None = None
    ready: bool = True
    movable: bool = True
    refused: frozenset[LayerRange] = frozenset()
    lent: bool = False

    def rate(self, layers: LayerRange) -> float:
        """Steps a second on those layers."""
        return 1.0 / (self.layer_s * len(layers))


Spans = tuple[LayerRange, ...]
Arrangement = tuple[LayerRange | None, ...]  # one entry a host, in order


@dataclass(frozen=True, slots=True, order=True)
class Worth:
    """What an arrangement is worth, the better the greater.

    Attributes:
        steps: a second, end to end; 0 where no pipeline joins.
        soft: a soft minimum over layers of their summed rates: tells arrangements of equal `steps` apart.
    """

    steps: float
    soft: float


@dataclass(frozen=True)
class Hosts:
    """Hosts of one model whose spans can join: of one dtype."""

    size: ModelSize
    hosts: tuple[Host, ...]
    _known: dict[Arrangement, Worth] = field(default_factory=dict, compare=False, repr=False)
    _between: dict[tuple[int, frozenset[int]], Spans] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def num_layers(self) -> int:
        """Of the model."""
        return len(self.size.layer_bytes)

    @cached_property
    def _bytes_before(self) -> list[int]:
        return [0, *accumulate(self.size.layer_bytes)]

    def span_bytes(self, start: int, end: int) -> int:
        """What layers take, with the embedding and the head where they lie."""
        head = self.size.head_bytes if start == 0 else 0
        tail = self.size.tail_bytes if end == self.num_layers else 0
        return self._bytes_before[end] - self._bytes_before[start] + head + tail

    def reach(self, host: Host, start: int) -> int:
        """The end of the longest span from `start` that fits on a host; `start` where not one layer does."""
        if self.span_bytes(start, self.num_layers) <= host.memory_bytes:
            return self.num_layers
        low, high = start, self.num_layers - 1  # without the tail, longer takes more
        while low < high:
            middle = (low + high + 1) // 2
            if self.span_bytes(start, middle) <= host.memory_bytes:
                low = middle
            else:
                high = middle - 1
        return max(low, start)

    def fits(self, host: Host, layers: LayerRange) -> bool:
        """Whether a host may be given layers."""
        return self.span_bytes(layers.start, layers.end) <= host.memory_bytes and layers not in host.refused

    def spans_between(self, index: int, bounds: frozenset[int]) -> Spans:
        """Spans that fit on a host and lie between boundaries, or reach as far as there is room; remembered."""
        known = self._between.get((index, bounds))
        if known is None:
            known = self._between[index, bounds] = self._spans_between(self.hosts[index], bounds)
        return known

    def _spans_between(self, host: Host, bounds: frozenset[int]) -> Spans:
        pairs = {(start, end) for start in bounds for end in bounds}
        pairs |= {(start, self.reach(host, start)) for start in bounds if start < self.num_layers}
        spans = (LayerRange(start, end) for start, end in sorted(pairs) if start < end)
        return tuple(span for span in spans if self.fits(host, span))

    @property
    def current(self) -> Arrangement:
        """What the hosts hold, and are loading."""
        return tuple(host.layers for host in self.hosts)

    @property
    def firm(self) -> Arrangement:
        """What the hosts serve now."""
        return tuple(host.layers if host.ready else None for host in self.hosts)

    def routable(self, arrangement: Arrangement) -> bool:
        """Whether spans of it join from the first layer to the last."""
        return joins(((span.start, span.end) for span in arrangement if span), self.num_layers)

    def knows(self, arrangement: Arrangement) -> bool:
        """Whether its worth was reckoned before."""
        return arrangement in self._known

    def worth(self, arrangement: Arrangement) -> Worth:
        """What it is worth; remembered."""
        known = self._known.get(arrangement)
        if known is None:
            known = self._known[arrangement] = self._reckon(arrangement)
        return known

    def speeds(self, arrangement: Arrangement) -> list[float]:
        """Summed rates, layer by layer."""
        change = [0.0] * (self.num_layers + 1)
        for start, end, rate in self._edges(arrangement):
            change[start] += rate
            change[end] -= rate
        return list(accumulate(change[:-1]))

    def _edges(self, arrangement: Arrangement) -> Iterator[tuple[int, int, float]]:
        for host, span in zip(self.hosts, arrangement, strict=True):
            if span is not None:
                yield span.start, span.end, host.rate(span)

    def _reckon(self, arrangement: Arrangement) -> Worth:
        steps = throughput(gathered(self._edges(arrangement)), self.num_layers)
        return Worth(steps, soft_minimum(self.speeds(arrangement)))


def soft_minimum(speeds: Sequence[float]) -> float:
    """Rises with every layer's speed, mostly with the weakest ones'; a layer that nobody holds counts as very slow."""
    floor = 1e-3 * max(speeds, default=0.0) or 1.0
    return float(sum(max(speed, floor) ** -SOFTNESS for speed in speeds) ** (-1 / SOFTNESS)) if speeds else 0.0


def replaced(arrangement: Arrangement, index: int, span: LayerRange | None) -> Arrangement:
    """The arrangement with another span for one host."""
    return (*arrangement[:index], span, *arrangement[index + 1 :])
