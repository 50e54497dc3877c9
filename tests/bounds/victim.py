"""A process that serves what peers and clients reach, to be attacked: `python -m bounds.victim`.

It prints its addresses as a line of JSON, and ends with its standard input.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator

from gateway.fake_generations import example_swarm
from node.fake_engine import DIGEST, HIDDEN_SIZE, MIDDLE, MODEL, FakeEngine
from osai.coordinator.api import Finished, GenerationEvent, GenerationRequest, SwarmView
from osai.coordinator.catalog import Catalog
from osai.coordinator.client_service import ClientService
from osai.coordinator.control_service import ControlService
from osai.coordinator.placing.registrar import Registrar
from osai.coordinator.swarm import Swarm
from osai.core.frames import FrameShape
from osai.core.rpc import EDGE_MAX_BYTES, WATCHFUL, bind, make_server
from osai.node.edge_port import EdgePort
from osai.node.edge_service import EdgeService
from osai.node.engine.api import Input
from osai.node.ring import Ring, ServedSpan
from osai.node.stages.stage import HostedSpan, Peer
from osai.proto import client_pb2_grpc, common_pb2, control_pb2_grpc, edge_pb2_grpc


class Forgetful(FakeEngine):
    """Keeps nothing of what it is given."""

    def submit(self, inp: Input) -> None:
        super().submit(inp)
        self.inputs.clear()


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

    def swarm(self) -> SwarmView:
        """Some swarm."""
        return example_swarm()


async def serve() -> None:
    """Serve until nobody listens any more."""
    edge = make_server(max_message_bytes=EDGE_MAX_BYTES, pings=WATCHFUL)
    front = make_server()
    swarm = Swarm()
    control = ControlService("c" * 32, swarm, Registrar(Catalog([]), swarm), ())
    control_pb2_grpc.add_ControlServicer_to_server(control, front)
    client_pb2_grpc.add_CoordinatorServicer_to_server(ClientService("c" * 32, Front(), lambda: 1), front)
    address = f"127.0.0.1:{bind(front, '127.0.0.1:0')}"
    async with (
        EdgePort.listening(edge, "127.0.0.1:0") as port,
        Ring(Peer(node_id="me", address="127.0.0.1:9"), Forgetful) as ring,
    ):
        shape = FrameShape(dtype=common_pb2.DTYPE_FLOAT32, hidden_size=HIDDEN_SIZE)
        hosted = HostedSpan(key=MODEL, layers=MIDDLE, num_layers=6, manifest_digest=DIGEST)
        ring.serve(ServedSpan(hosted=hosted, frames=shape))
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
