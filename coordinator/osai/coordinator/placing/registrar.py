"""Takes nodes in and says which layers each is to host. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from osai.coordinator.catalog import Catalog, ServedModel
from osai.coordinator.placing.boards import Sizes, read_board
from osai.coordinator.placing.hosts import Host, Hosts
from osai.coordinator.placing.members import Member, Wish
from osai.coordinator.placing.placement import place
from osai.coordinator.placing.planner import best_span
from osai.coordinator.swarm import Swarm, replicas
from osai.core.errors import AssignmentError, InvalidRequestError
from osai.core.layers import LayerRange
from osai.core.precision import parse_precision

__all__ = ["Assignment", "Registrar", "Wish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Layers of a model for one node."""

    model: ServedModel
    layers: LayerRange


class Registrar:
    """Remembers what it has assigned to the nodes whose control streams it holds."""

    def __init__(self, catalog: Catalog, swarm: Swarm) -> None:
        self._catalog = catalog
        self._swarm = swarm
        self._sizes = Sizes(catalog.models)
        self._assigned: dict[str, dict[str, LayerRange]] = {}
        self._members: dict[str, Member] = {}

    @property
    def members(self) -> Mapping[str, Member]:
        """Nodes whose control streams are held here, by their id."""
        return MappingProxyType(self._members)

    def joined(self, node_id: str, wishes: Sequence[Wish], dtype: str, memory_bytes: int) -> list[Assignment]:
        """A node has come: its assignments, one a wish; spans that it hosts already stay as they are.

        Args:
            node_id: the node.
            wishes: what its operator wants hosted.
            dtype: what it runs in, as osai.core.precision names it.
            memory_bytes: what it has for weights and KV.

        Raises:
            UnknownModelError: if it wishes for a model that is not served here.
            InvalidRequestError: if it wishes for layers that the model has not, or for one model twice, or runs in a
                precision that is not known here.
            AssignmentError: if nothing that it may host fits in its memory.
        """
        member = Member(
            node_id=node_id, wishes=tuple(wishes), precision=parse_precision(dtype), memory_bytes=memory_bytes
        )
        named = [wish.model_id for wish in wishes if wish.model_id]
        if len(set(named)) < len(named):
            raise InvalidRequestError("a model is wished for twice; a node hosts one span of a model")
        node = self._swarm.get(node_id)
        hosted = {span.model_id: span.layers for span in node.spans if span.state != "failed"} if node else {}
        self._assigned[node_id] = dict(hosted)
        assignments = [
            assignment
            for wish in sorted(wishes, key=lambda wish: not wish.model_id)  # "any" gets what the others leave
            if wish.model_id not in hosted and not (wish.model_id == "" and hosted)
            for assignment in (self._assign(member, wish),)
        ]
        self._members[node_id] = member
        return assignments

    def ordered(self, node_id: str, model_id: str, layers: LayerRange) -> Assignment:
        """A member is to host other layers: the assignment that tells it."""
        return self._remember(node_id, self._catalog.get(model_id), layers)

    def left(self, node_id: str) -> None:
        """A node's control stream has ended."""
        self._assigned.pop(node_id, None)
        self._members.pop(node_id, None)

    def _assign(self, member: Member, wish: Wish) -> Assignment:
        node_id = member.node_id
        models = [self._catalog.get(wish.model_id)] if wish.model_id else list(self._catalog.models)
        models = [model for model in models if model.model_id not in self._assigned[node_id]]
        if not models:
            raise AssignmentError("there is no model left to assign; start the coordinator with more --model")
        if wish.layers is not None:
            if not wish.model_id and len(self._catalog.models) > 1:
                served = ", ".join(model.model_id for model in self._catalog.models)
                raise InvalidRequestError(
                    f"layers {wish.layers} of which model? Say with --model; served are: {served}"
                )
            wish.layers.check_within(models[0].facts.num_layers)
            return self._remember(node_id, models[0], wish.layers)
        weakest_first = sorted(models, key=lambda model: min(self._replicas(model)))
        memory_bytes = self._sizes.budget(member)
        for model in weakest_first:
            layers = self._place(member, model, memory_bytes)
            if layers is not None:
                return self._remember(node_id, model, layers)
        raise AssignmentError(
            f"not one layer of {', '.join(model.model_id for model in models)} fits in {memory_bytes / 2**20:.0f} MiB "
            "with the KV of one full context; give more with --memory"
        )

    def _place(self, member: Member, model: ServedModel, memory_bytes: int) -> LayerRange | None:
        """The layers that the swarm needs most; where it serves the model already, those that gain most."""
        kind = self._sizes.kind(model.model_id, member.precision)
        size = self._sizes.size(model.model_id, kind)
        counts = self._replicas(model)
        if all(counts):
            ordered = {
                (node_id, name): layers for node_id, all_of in self._assigned.items() for name, layers in all_of.items()
            }
            others = [node for node in self._swarm.nodes if node.node_id != member.node_id]
            board = read_board(self._sizes, model.model_id, others, self._members, ordered=ordered, refused={})
            hosts = board.kinds.get(kind)
            if hosts is not None and hosts.routable(hosts.current):
                known = sorted(host.layer_s for host in hosts.hosts)
                host = Host(node_id=member.node_id, memory_bytes=memory_bytes, layer_s=known[len(known) // 2])
                return best_span(Hosts(size, (*hosts.hosts, host)), len(hosts.hosts))
        return place(size, counts, memory_bytes)

    def _remember(self, node_id: str, model: ServedModel, layers: LayerRange) -> Assignment:
        self._assigned[node_id][model.model_id] = layers
        return Assignment(model=model, layers=layers)

    def _replicas(self, model: ServedModel) -> tuple[int, ...]:
        """Nodes per layer: what records say, and what was assigned here and is in no record yet."""
        name = model.model_id
        spans = {node_id: assigned[name] for node_id, assigned in self._assigned.items() if name in assigned}
        for node in self._swarm.nodes:
            if node.state == "draining":
                spans.pop(node.node_id, None)
                continue
            for span in (span for span in node.spans if span.model_id == name):
                spans.pop(node.node_id, None)
                same_weights = span.manifest_digest in (b"", model.manifest.digest)  # none: it is still loading
                if span.state != "failed" and same_weights:
                    spans[node.node_id] = span.layers
        return replicas(spans.values(), model.facts.num_layers)
