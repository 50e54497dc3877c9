"""The swarm as front doors show it. Pure."""

from collections.abc import Callable, Iterable

from osai.coordinator.api import ModelView, NodeView, SpanView
from osai.coordinator.catalog import ServedModel
from osai.coordinator.routes.routing import is_routable
from osai.coordinator.swarm import NodeState, replicas, serving


def view_models(
    models: Iterable[ServedModel], nodes: tuple[NodeState, ...], num_queued: Callable[[str], int]
) -> tuple[ModelView, ...]:
    """Each model with its ready replicas, layer by layer, and how many requests wait for it by its id."""
    return tuple(_view_model(model, nodes, num_queued(model.model_id)) for model in models)


def _view_model(model: ServedModel, nodes: tuple[NodeState, ...], num_queued: int) -> ModelView:
    ready = [span.layers for _, span in serving(nodes, model.model_id) if span.manifest_digest == model.manifest.digest]
    return ModelView(
        model_id=model.model_id,
        num_layers=model.facts.num_layers,
        max_context=model.facts.max_context,
        signed=model.signed,
        licence=model.manifest.manifest.licence,
        replicas=replicas(ready, model.facts.num_layers),
        created_s=model.manifest.manifest.created_s,
        num_queued=num_queued,
        routable=is_routable(nodes, model),
        tools=model.tokenizer.tool_style,
    )


def view_node(node: NodeState, now_s: float) -> NodeView:
    """One node; `now_s` in seconds since 1970."""
    return NodeView(
        node_id=node.node_id,
        name=node.name,
        software=node.software,
        device=node.device,
        memory_bytes=node.memory_bytes,
        state=node.state,
        spans=tuple(
            SpanView(
                model_id=span.model_id,
                span=span.layers,
                dtype=span.dtype,
                state=span.state,
                verified=span.verified,
                failure=span.failure,
            )
            for span in node.spans
        ),
        num_sessions=node.num_sessions,
        uptime_s=max(0.0, now_s - node.started_at_s),
        operator=node.operator.hex(),
    )
