"""One move in a model of many hosts: from where most can be spared to the weakest layers. Pure.

Weighing every arrangement of a thousand nodes takes too long. Who is spared most easily is thought of alone, and the
spans around the weakest layer alone; the throughput of the best of them is then reckoned in full.
"""

from osai.coordinator.placing.hosts import Hosts, replaced, soft_minimum
from osai.core.layers import LayerRange

NUM_MOVERS = 8
NUM_BOUNDS = 6  # to either side of the weakest layer


def one_of_many(hosts: Hosts, needed_gain: float) -> tuple[int, LayerRange] | None:
    """The host and its new span; None where no move gains enough.

    Args:
        hosts: of the model, which is routable.
        needed_gain: of throughput, or of its soft minimum over layers at no loss of throughput.
    """
    speeds = hosts.speeds(hosts.current)
    soft = soft_minimum(speeds)
    candidates = [
        (soft_minimum(after), index, span)
        for index in _spared(hosts, speeds)
        for span in _spans(hosts, speeds, index)
        if (after := _moved(hosts, speeds, index, span))
    ]
    if not candidates:
        return None
    best_soft, index, span = max(candidates, key=lambda each: (each[0], -each[1]))
    if best_soft < soft * (1 + needed_gain) or not hosts.routable(replaced(hosts.firm, index, None)):
        return None
    steps = hosts.worth(hosts.current).steps
    return (index, span) if hosts.worth(replaced(hosts.current, index, span)).steps >= steps else None


def _spared(hosts: Hosts, speeds: list[float]) -> list[int]:
    """Hosts whose layers are the fastest without them."""

    def left(index: int) -> float:
        host = hosts.hosts[index]
        span = host.layers
        return min(speeds[span.start : span.end]) - host.rate(span) if span else 0.0

    movable = [index for index, host in enumerate(hosts.hosts) if host.movable and host.layers]
    return sorted(movable, key=lambda index: (-left(index), index))[:NUM_MOVERS]


def _spans(hosts: Hosts, speeds: list[float], index: int) -> list[LayerRange]:
    """Spans over the weakest layer that begin and end where others do."""
    host = hosts.hosts[index]
    weakest = min(range(len(speeds)), key=speeds.__getitem__)
    bounds = {0, hosts.num_layers} | {at for span in hosts.current if span for at in (span.start, span.end)}
    starts = sorted((at for at in bounds if at <= weakest), reverse=True)[:NUM_BOUNDS]
    ends = sorted(at for at in bounds if at > weakest)[:NUM_BOUNDS]
    pairs = [LayerRange(start, end) for start in starts for end in ends]
    return [span for span in pairs if span != host.layers and hosts.fits(host, span)]


def _moved(hosts: Hosts, speeds: list[float], index: int, span: LayerRange) -> list[float]:
    host, after = hosts.hosts[index], list(speeds)
    for layers, sign in ((host.layers, -1.0), (span, 1.0)):
        if layers is not None:
            rate = sign * host.rate(layers)
            for layer in range(layers.start, layers.end):
                after[layer] += rate
    return after
