"""The swarm as a coordinator tells of it, from protobuf to plain data."""

from osai.client.swarm import HostedSpan, Model, Node, Swarm
from osai.client.wire import span_of
from osai.proto import client_pb2


def model_of(wire: client_pb2.ModelInfo) -> Model:
    """One model."""
    return Model(
        model_id=wire.model_id,
        num_layers=wire.num_layers,
        max_context=wire.max_context,
        covered=wire.covered,
        signed=wire.signed,
        licence=wire.licence,
        replicas=tuple(wire.replicas),
        missing=wire.missing,
    )


def _node_of(wire: client_pb2.NodeStatus) -> Node:
    return Node(
        node_id=wire.node_id,
        name=wire.name,
        software=wire.software,
        device=wire.device,
        memory_bytes=wire.memory_bytes,
        state=wire.state,
        spans=tuple(
            HostedSpan(
                model_id=span.model_id,
                span=span_of(span.span),
                dtype=span.dtype,
                state=span.state,
                verified=span.verified,
                failure=span.failure,
            )
            for span in wire.spans
        ),
        num_sessions=wire.num_sessions,
        uptime_s=wire.uptime_s,
        operator=wire.operator.hex(),
    )


def swarm_of(wire: client_pb2.GetSwarmResponse) -> Swarm:
    """The whole swarm."""
    return Swarm(
        coordinator_id=wire.coordinator_id,
        software=wire.software,
        http_address=wire.http_address,
        dht_addresses=tuple(wire.dht_addresses),
        models=tuple(model_of(model) for model in wire.models),
        nodes=tuple(_node_of(node) for node in wire.nodes),
        coordinators=tuple(wire.coordinators),
    )
