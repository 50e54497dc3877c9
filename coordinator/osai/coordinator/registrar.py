"""Takes nodes in and says which layers each is to host. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from osai.coordinator.catalog import Catalog, ServedModel
from osai.coordinator.placement import place
from osai.coordinator.swarm import Swarm, replicas
from osai.core.errors import AssignmentError, InvalidRequestError
from osai.core.layers import LayerRange
from osai.core.precision import Precision, parse_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a node's operator wants hosted.

    An empty model id: any, or with layers the only one there is. No layers: whichever are needed.
    """

    model_id: str
    layers: LayerRange | None


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
        self._assigned: dict[str, dict[str, LayerRange]] = {}

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
        precision = parse_precision(dtype)
        named = [wish.model_id for wish in wishes if wish.model_id]
        if len(set(named)) < len(named):
            raise InvalidRequestError("a model is wished for twice; a node hosts one span of a model")
        node = self._swarm.get(node_id)
        hosted = {span.model_id: span.layers for span in node.spans if span.state != "failed"} if node else {}
        self._assigned[node_id] = dict(hosted)
        share = memory_bytes // max(len(wishes), 1)
        return [
            assignment
            for wish in sorted(wishes, key=lambda wish: not wish.model_id)  # "any" gets what the others leave
            if wish.model_id not in hosted and not (wish.model_id == "" and hosted)
            for assignment in (self._assign(node_id, wish, precision, share),)
        ]

    def left(self, node_id: str) -> None:
        """A node's control stream has ended."""
        self._assigned.pop(node_id, None)

    def _assign(self, node_id: str, wish: Wish, precision: Precision, memory_bytes: int) -> Assignment:
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
        for model in weakest_first:
            layers = place(model.size(precision), self._replicas(model), memory_bytes)
            if layers is not None:
                return self._remember(node_id, model, layers)
        raise AssignmentError(
            f"not one layer of {', '.join(model.model_id for model in models)} fits in {memory_bytes / 2**20:.0f} MiB "
            "with the KV of one full context; give more with --memory"
        )

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
