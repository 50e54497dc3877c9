"""A coordinator's two doors, HTTP and gRPC, before generations that cost nothing. Prints its addresses as JSON."""

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator

import uvloop
from prometheus_client import CollectorRegistry

from osai.coordinator.api import (
    Chunk,
    Embedding,
    EmbeddingRequest,
    Finished,
    GeneratedToken,
    GenerationEvent,
    GenerationRequest,
    ModelView,
    Started,
    SwarmView,
)
from osai.coordinator.client_service import ClientService
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metering import MeteredGenerations
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer
from osai.core.errors import UnavailableError
from osai.core.rpc import bind, make_server
from osai.proto import client_pb2_grpc

MODEL = "bench/fast"
CONTEXT = 2**20


class FastGenerations:
    """Gives tokens as fast as they are taken, all generations in turn. A `Generations` itself."""

    def swarm(self) -> SwarmView:
        """One model, no nodes."""
        model = ModelView(model_id=MODEL, num_layers=1, max_context=CONTEXT, signed=False, licence="", replicas=(1,))
        return SwarmView(coordinator_id="", software="", http_address="", dht_addresses=(), models=(model,), nodes=())

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        """None: they are not measured."""
        raise UnavailableError(f"no vectors here for {request.model_id}")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """As many tokens as are asked for."""
        yield Started(session_id="0", model_id=MODEL, num_prompt_tokens=1, seed=request.sampling.seed, pipeline=())
        for index in range(request.max_tokens or 1):
            await asyncio.sleep(0)  # as after a wait for the swarm: the other generations have their turn
            yield Chunk(index=index, tokens=(GeneratedToken(token_id=index, text=" token"),), text=" token")
        yield Finished(
            reason="length", num_prompt_tokens=1, num_generated_tokens=request.max_tokens or 1, ttft_s=0.0,
            decode_tokens_per_s=0.0,
        )  # fmt: skip


async def serve() -> None:
    """Serve until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    metrics = Metrics(CollectorRegistry())
    fast = FastGenerations()
    metered = MeteredGenerations(fast, metrics=metrics, api="grpc", clock=time.monotonic)
    server = make_server()
    service = ClientService("bench", metered, lambda: secrets.randbits(63))
    client_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
    port = bind(server, "127.0.0.1:0")
    await server.start()
    async with HttpServer(create_app(fast, metrics=metrics), host="127.0.0.1", port=0) as http:
        sys.stdout.write(json.dumps({"grpc": f"127.0.0.1:{port}", "http": http.url}) + "\n")
        sys.stdout.flush()
        await stopped.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(serve())
