"""A process that serves what peers and clients reach, to be attacked: `python -m scripts.chaos_runs.wire_victim`.

It prints its addresses as a line of JSON, and ends with its standard input.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator

from scripts.chaos_runs.wire_span import UNHURRIED, Forgetful, served_span

from osai.coordinator.api import (
    Embedding,
    EmbeddingRequest,
    Finished,
    GenerationEvent,
    GenerationRequest,
    SwarmView,
)
from osai.coordinator.catalog import Catalog
from osai.coordinator.client_service import ClientService
from osai.coordinator.control_service import ControlService
from osai.coordinator.placing.registrar import Registrar
from osai.coordinator.swarm import Swarm
from osai.core.rpc import EDGE_MAX_BYTES, bind, make_server
from osai.node.edge_port import EdgePort
from osai.node.edge_service import EdgeService
from osai.node.ring import Ring
from osai.node.stages.stage import Peer
from osai.proto import client_pb2_grpc, control_pb2_grpc, edge_pb2_grpc

ID = "c" * 32


class Front:
    """What the coordinator's service asks of a coordinator."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """An end at once, which tells how long the prompt was."""
        yield Finished(
            reason="stop",
            num_prompt_tokens=len(request.prompt),
            num_generated_tokens=0,
            ttft_s=0,
            decode_tokens_per_s=0,
        )

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """A vector at once, which tells how long the prompt was."""
        return Embedding(model_id=request.model_id, num_prompt_tokens=len(request.prompt), vector=(1.0,))

    def swarm(self) -> SwarmView:
        """Some swarm."""
        return SwarmView(coordinator_id=ID, software="osai", http_address="", dht_addresses=(), models=(), nodes=())


async def serve() -> None:
    """Serve until nobody listens any more."""
    edge = make_server(max_message_bytes=EDGE_MAX_BYTES, pings=UNHURRIED)
    front = make_server(pings=UNHURRIED)
    swarm = Swarm()
    control = ControlService(ID, swarm, Registrar(Catalog([]), swarm), ())
    control_pb2_grpc.add_ControlServicer_to_server(control, front)
    client_pb2_grpc.add_CoordinatorServicer_to_server(ClientService(ID, Front(), lambda: 1), front)
    address = f"127.0.0.1:{bind(front, '127.0.0.1:0')}"
    async with (
        EdgePort.listening(edge, "127.0.0.1:0") as port,
        Ring(Peer(node_id="me", address="127.0.0.1:9"), Forgetful) as ring,
    ):
        ring.serve(served_span())
        edge_pb2_grpc.add_EdgeServicer_to_server(EdgeService("me", ring, port), edge)
        await edge.start()
        await front.start()
        sys.stdout.write(json.dumps({"edge": f"127.0.0.1:{port.port}", "coordinator": address}) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        await edge.stop(None)
        await front.stop(None)


if __name__ == "__main__":
    asyncio.run(serve())
