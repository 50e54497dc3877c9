"""A coordinator that follows a script: the real generated interface, over a real loopback socket."""
# ruff: noqa: N802 - gRPC's methods are named in the .proto

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Never

import grpc

from osai.core import rpc
from osai.core.errors import OsaiError
from osai.core.protocol import hello
from osai.proto import client_pb2, client_pb2_grpc, common_pb2

Event = client_pb2.GenerateEvent
Step = Event | OsaiError | grpc.StatusCode | float
Script = Callable[[client_pb2.GenerateRequest], Iterable[Step]]

TEXT = ("All", " the", " world", "'s a", " stage")
STAGES = tuple(
    common_pb2.Stage(
        node_id=f"node-{i}", address=f"127.0.0.1:{9000 + i}", span=common_pb2.LayerRange(start=2 * i, end=2 * i + 2)
    )
    for i in range(3)
)


def started(**fields: Any) -> Event:  # noqa: ANN401 - of any protobuf field
    values = {"session_id": "s1", "model_id": "m", "num_prompt_tokens": 4, "seed": 7, "pipeline": STAGES, **fields}
    return Event(started=client_pb2.Started(**values))


def chunk(index: int, token_ids: Sequence[int], text: str, **fields: Any) -> Event:  # noqa: ANN401 - of any protobuf field
    tokens = [common_pb2.SampledToken(token_id=token_id, **fields) for token_id in token_ids]
    return Event(chunk=client_pb2.Chunk(index=index, tokens=tokens, text=text))


def finished(
    num_generated_tokens: int, reason: common_pb2.FinishReason.ValueType = common_pb2.FINISH_REASON_LENGTH
) -> Event:
    return Event(
        finished=client_pb2.Finished(
            reason=reason,
            num_prompt_tokens=4,
            num_generated_tokens=num_generated_tokens,
            ttft_s=0.25,
            decode_tokens_per_s=40.0,
        )
    )


def whole(request: client_pb2.GenerateRequest) -> Iterable[Event]:
    """A complete generation of five tokens, ids 10 to 14."""
    yield started()
    for i, text in enumerate(TEXT):
        yield chunk(i, [10 + i], text)
    yield finished(len(TEXT))


class FakeCoordinator(client_pb2_grpc.CoordinatorServicer):
    """Plays `script`: events are sent, numbers are seconds to wait, an OsaiError ends the call.

    A bare status ends it as a broken connection does.

    Attributes:
        requests: every GenerateRequest that came.
        embedded: every EmbedRequest that came.
        vector: what it answers to these.
        arrived: set once a generation has begun.
        gone: set once a client has left a generation before its end.
    """

    def __init__(
        self,
        script: Script = whole,
        *,
        greeting: common_pb2.Hello | OsaiError | float | None = None,
        swarm: client_pb2.GetSwarmResponse | None = None,
    ) -> None:
        self._script = script
        self._greeting = greeting if greeting is not None else hello("coordinator-1")
        self.swarm = swarm or client_pb2.GetSwarmResponse()
        self.requests: list[client_pb2.GenerateRequest] = []
        self.embedded: list[client_pb2.EmbedRequest] = []
        self.vector = (0.6, -0.8)
        self.num_greetings = 0
        self.arrived = threading.Event()
        self.gone = threading.Event()
        self.failing = False  # calls other than Greet end as those of a server that shuts down

    def Greet(self, request: common_pb2.Hello, context: grpc.ServicerContext) -> common_pb2.Hello:
        self.num_greetings += 1
        assert request.protocol_version
        if isinstance(self._greeting, OsaiError):
            fail(context, self._greeting)
        if isinstance(self._greeting, float):
            time.sleep(self._greeting)
            return hello()
        return self._greeting

    def Generate(self, request: client_pb2.GenerateRequest, context: grpc.ServicerContext) -> Iterator[Event]:
        self.requests.append(request)
        self.arrived.set()
        ended = threading.Event()
        context.add_callback(ended.set)
        complete = False
        try:
            for step in self._script(request):
                if isinstance(step, OsaiError):
                    fail(context, step)
                if isinstance(step, grpc.StatusCode):
                    context.abort(step, "the connection broke")
                if isinstance(step, float):
                    if ended.wait(step):
                        break
                else:
                    yield step
            complete = not ended.is_set()
        finally:
            if not complete:
                self.gone.set()

    def Embed(self, request: client_pb2.EmbedRequest, context: grpc.ServicerContext) -> client_pb2.EmbedResponse:
        self.embedded.append(request)
        if self.failing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        return client_pb2.EmbedResponse(model_id="acme/whole", num_prompt_tokens=4, embedding=self.vector)

    def ListModels(
        self, request: client_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> client_pb2.ListModelsResponse:
        if self.failing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        return client_pb2.ListModelsResponse(models=self.swarm.models)

    def GetSwarm(
        self, request: client_pb2.GetSwarmRequest, context: grpc.ServicerContext
    ) -> client_pb2.GetSwarmResponse:
        return self.swarm


def fail(context: grpc.ServicerContext, error: OsaiError) -> Never:
    """What `rpc.abort` sends, from a server of threads."""
    context.set_trailing_metadata(((rpc.ERROR_METADATA_KEY, error.to_proto().SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, error.message)
    raise AssertionError


@contextmanager
def serving(fake: FakeCoordinator, address: str = "127.0.0.1:0") -> Iterator[str]:
    """Serve on a loopback port, a free one unless it is given; yields HOST:PORT. Leaving it breaks all calls."""
    with ThreadPoolExecutor(max_workers=8) as threads:
        server = grpc.server(threads, options=rpc.server_options(rpc.CLIENT_API_MAX_BYTES))
        client_pb2_grpc.add_CoordinatorServicer_to_server(fake, server)
        port = server.add_insecure_port(address)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait(5)


def example_swarm() -> client_pb2.GetSwarmResponse:
    """Two models, one of them with a gap, on two nodes."""
    spans = [
        client_pb2.NodeSpan(
            model_id="acme/whole",
            span=common_pb2.LayerRange(start=0, end=4),
            dtype="bfloat16",
            state="ready",
            verified=True,
        ),
        client_pb2.NodeSpan(
            model_id="acme/gap",
            span=common_pb2.LayerRange(start=0, end=1),
            dtype="float32",
            state="failed",
            failure="tensor x is corrupt",
        ),
    ]
    return client_pb2.GetSwarmResponse(
        coordinator_id="c0ffee",
        software="osai/9.9",
        http_address="http://127.0.0.1:8080",
        dht_addresses=["/ip4/127.0.0.1/tcp/1/p2p/Q"],
        models=[
            client_pb2.ModelInfo(model_id="acme/whole", num_layers=4, max_context=512, covered=True, signed=True,
                                 licence="MIT", replicas=[1, 1, 1, 1]),
            client_pb2.ModelInfo(model_id="acme/gap", num_layers=2, max_context=64, replicas=[1, 0]),
        ],
        nodes=[
            client_pb2.NodeStatus(
                node_id="n" * 32,
                name="oak",
                software="osai/9.9",
                device="cpu",
                memory_bytes=8 * 2**30,
                state="ready",
                spans=spans,
                num_sessions=3,
                uptime_s=3700,
            ),
            client_pb2.NodeStatus(node_id="m" * 32, state="joining"),
        ],
    )  # fmt: skip
