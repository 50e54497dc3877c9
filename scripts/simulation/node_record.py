"""A simulated node's record, and what it makes of others'."""

from dataclasses import dataclass

from scripts.simulation.model import MODEL

from osai.coordinator.swarm import NodeState, SpanState
from osai.core.layers import LayerRange
from osai.node.delays import HostedLayers, Neighbour
from osai.node.engine.step_load import StepLoad
from osai.node.membership import SpanStatus
from osai.node.stages.stage import Peer


def span_state(span: SpanStatus, num_free_kv_tokens: int, load: StepLoad | None) -> SpanState:
    """One span as records have it; `load` of the engine, if there is one."""
    is_ready = span.state == "ready"
    return SpanState(
        model_id=span.model_id,
        layers=span.layers,
        manifest_digest=span.manifest_digest,
        dtype=span.dtype,
        state=span.state,
        verified=span.verified,
        num_free_kv_tokens=num_free_kv_tokens if is_ready else 0,
        step_time_s=span.step_time_s,
        failure=span.failure,
        next=span.next,
        recent_step_s=load.recent_step_s if load and is_ready else 0.0,
        step_in_hand_s=load.step_in_hand_s if load and is_ready else 0.0,
        num_waiting_rows=load.num_waiting_rows if load and is_ready else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """What the DHT holds of one node.

    Attributes:
        state: as coordinators read it.
        neighbour: as nodes read it; None for one that nobody is to measure delays to.
    """

    state: NodeState
    neighbour: Neighbour | None


def node_record(state: NodeState) -> NodeRecord:
    """Read once, when it is written: every node of the swarm would come to the same."""
    return NodeRecord(state=state, neighbour=_neighbour(state))


def hosted_layers(layers: LayerRange, digest: bytes) -> HostedLayers:
    """Layers that a node serves."""
    return HostedLayers(model_id=MODEL, manifest_digest=digest, layers=layers)


def _neighbour(node: NodeState) -> Neighbour | None:
    if node.state == "draining":
        return None
    spans = tuple(hosted_layers(span.layers, span.manifest_digest) for span in node.spans if span.state == "ready")
    return Neighbour(peer=Peer(node_id=node.node_id, address=node.address), spans=spans)
