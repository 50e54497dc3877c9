"""A node's edge as it is, around an engine that computes nothing: what is left is the way of a frame."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from osai.core.errors import OsaiError, UnavailableError, from_proto
from osai.core.frames import FrameShape
from osai.core.gatekeeper import Gatekeeper
from osai.core.layers import LayerRange
from osai.core.member_tls import MemberTls
from osai.core.rpc import EDGE_MAX_BYTES, make_server
from osai.node.edge_port import EdgePort
from osai.node.edge_service import EdgeService
from osai.node.engine.api import Input, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.ring import Ring, ServedSpan
from osai.node.stages.stage import HostedSpan, Peer
from osai.proto import common_pb2, edge_pb2, edge_pb2_grpc

MODEL_ID = "echo"
NUM_LAYERS = 4
HIDDEN_SIZE = 8192  # of a 70B Llama: a row in bf16 has 16 KiB
DTYPE = common_pb2.DTYPE_BFLOAT16
SESSION = 1
MAX_TOTAL_TOKENS = 2**20  # more than any run's round trips
OPEN_DEADLINE_S = 10.0

OnRows = Callable[[Input, Callable[[StepOutput], None]], None]


class RowsEngine(Engine):
    """Gives the rows of each step to `on_rows`, together with the callback for the step's output, and computes nothing.

    It has no thread: what the engine's own hand-over between threads takes is not part of an edge.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_output: Callable[[StepOutput], None], on_rows: OnRows
    ) -> None:
        super().__init__(loop, on_output, _never)
        self._give, self._on_rows = on_output, on_rows

    async def open(self, spec: SessionSpec) -> int:  # noqa: ARG002 - the engine's own signature
        """Every session is welcome, and starts from nothing."""
        return 0

    def submit(self, inp: Input) -> None:
        """Rows have come."""
        self._on_rows(inp, self._give)

    async def close(self, session: int, block_hashes: Sequence[bytes] = ()) -> None:
        """Nothing is held."""


def _never(error: OsaiError) -> None:
    raise error


def echo(inp: Input, give: Callable[[StepOutput], None]) -> None:
    """Give the rows back as their step's output, from the loop as the engine does."""
    output = StepOutput(span=MODEL_ID, rows=(inp.rows,), hidden=inp.data)
    asyncio.get_running_loop().call_soon(give, output)


@asynccontextmanager
async def echo_stage(
    node_id: str, layers: LayerRange, on_rows: OnRows, tls: MemberTls | None = None
) -> AsyncIterator[tuple[Ring, Peer]]:
    """A ring with its edge service, neither head nor tail; its sessions' rows go to `on_rows`.

    Args:
        node_id: of the stage; in a private swarm its certificate's.
        layers: that it hosts.
        on_rows: gets the rows of each step.
        tls: of the node, in a private swarm.
    """
    loop = asyncio.get_running_loop()
    server = make_server(max_message_bytes=EDGE_MAX_BYTES, interceptors=[Gatekeeper(tls)] if tls else [])
    async with EdgePort.listening(server, "127.0.0.1:0", tls) as port:
        me = Peer(node_id=node_id, address=f"127.0.0.1:{port.port}")
        async with Ring(me, lambda on_output: RowsEngine(loop, on_output, on_rows), tls=tls) as ring:
            hosted = HostedSpan(key=MODEL_ID, layers=layers, num_layers=NUM_LAYERS, manifest_digest=b"")
            ring.serve(ServedSpan(hosted=hosted, frames=FrameShape(dtype=DTYPE, hidden_size=HIDDEN_SIZE)))
            edge_pb2_grpc.add_EdgeServicer_to_server(EdgeService(node_id, ring, port, tls), server)
            await server.start()
            try:
                yield ring, me
            finally:
                await server.stop(None)


async def open_session(ring: Ring, layers: LayerRange, successor: Peer) -> None:
    """Open the one session on a stage, as a coordinator does; a prompt of one token, so that every frame is decode.

    Raises:
        UnavailableError: if the stage does not answer in time.
        OsaiError: if it refuses.
    """
    owner, outbox = ring.attach("bench")
    stage = common_pb2.Stage(node_id=successor.node_id, address=successor.address)
    asked = edge_pb2.OpenSession(
        session=SESSION,
        model_id=MODEL_ID,
        span=common_pb2.LayerRange(start=layers.start, end=layers.end),
        successor=stage,
        num_prompt_tokens=1,
        max_total_tokens=MAX_TOTAL_TOKENS,
        sampling=common_pb2.SamplingParams(top_p=1.0, repetition_penalty=1.0),
    )
    await ring.receive(owner, edge_pb2.LinkMessage(open=asked))
    try:
        async with asyncio.timeout(OPEN_DEADLINE_S):
            answer = await outbox.get()
    except TimeoutError as e:
        raise UnavailableError(f"the stage did not open a session within {OPEN_DEADLINE_S:g} s") from e
    if answer.HasField("failed"):
        raise from_proto(answer.failed.error)


async def close_session(ring: Ring) -> None:
    """Close the session: the end of its links is no failure then."""
    owner, _ = ring.attach("bench")
    await ring.receive(owner, edge_pb2.LinkMessage(close=edge_pb2.CloseSession(session=SESSION)))
