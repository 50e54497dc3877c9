"""Whether the nodes present could hold a model at all, and what they lack. Pure."""

from collections.abc import Iterable

from osai.coordinator.catalog import ServedModel
from osai.coordinator.placing.boards import Sizes, is_known_kind
from osai.coordinator.placing.hosts import Host, Hosts
from osai.coordinator.placing.repair import MAX_MOVERS, repair
from osai.coordinator.swarm import NodeState
from osai.core.layers import LayerRange
from osai.core.precision import AUTO, Precision


def what_is_missing(model: ServedModel, nodes: Iterable[NodeState], sizes: Sizes | None = None) -> str:
    """What the nodes present lack to hold the model, were all their memory its own; empty where they can hold it.

    Args:
        model: the model.
        nodes: the swarm; those that drain do not count.
        sizes: of the models, where they are at hand.
    """
    sizes = sizes or Sizes([model])
    kinds: dict[str, list[Host]] = {}
    for node in nodes:
        if node.state != "draining":
            kind = _kind_of(node, model, sizes)
            host = Host(node_id=node.node_id, memory_bytes=node.memory_bytes, layer_s=1.0)
            kinds.setdefault(kind, []).append(host)
    if not kinds:
        return f"no node is there; {model.model_id} takes {_size(_all(sizes, model))}"
    lacks = []
    for kind, hosts in sorted(kinds.items()):
        text = _lack(Hosts(sizes.size(model.model_id, kind), tuple(hosts)))
        if not text:
            return ""
        lacks.append(f"nodes of {kind}: {text}" if len(kinds) > 1 else text)
    return "; ".join(lacks)


def _all(sizes: Sizes, model: ServedModel) -> int:
    kind = sizes.kind(model.model_id, Precision(dtype=AUTO))
    return sizes.size(model.model_id, kind).span_bytes(LayerRange(0, model.facts.num_layers))


def _kind_of(node: NodeState, model: ServedModel, sizes: Sizes) -> str:
    """The precision that a node runs in, as far as its spans tell; else the checkpoint's own."""
    named = next((span.dtype for span in node.spans if is_known_kind(span.dtype)), "")
    return named or sizes.kind(model.model_id, Precision(dtype=AUTO))


def _lack(hosts: Hosts) -> str:
    reached = _furthest(hosts)
    if reached == hosts.num_layers or (len(hosts.hosts) <= MAX_MOVERS and repair(hosts) is not None):
        return ""
    largest = max(host.memory_bytes for host in hosts.hosts)
    too_large = [layer for layer in range(hosts.num_layers) if hosts.span_bytes(layer, layer + 1) > largest]
    if too_large:
        most = max(hosts.span_bytes(layer, layer + 1) for layer in too_large)
        return f"layer {too_large[0]} takes {_size(most)} with its KV, the largest node has {_size(largest)}"
    rest = hosts.span_bytes(reached, hosts.num_layers)
    return (
        f"the {len(hosts.hosts)} nodes present hold {reached} of {hosts.num_layers} layers at most; nodes with "
        f"{_size(rest)} more are needed for layers {reached}:{hosts.num_layers}"
    )


def _furthest(hosts: Hosts) -> int:
    """How many layers, from the first on, the hosts hold one after the other."""
    best = 0
    for order in (1, -1):
        reached = 0
        for host in sorted(hosts.hosts, key=lambda host: order * host.memory_bytes):
            if reached < hosts.num_layers:
                reached = hosts.reach(host, reached)
        best = max(best, reached)
    return best


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
