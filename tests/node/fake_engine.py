"""A ring behind its edge on loopback, around an engine whose steps the tests take; and a coordinator's link to it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from osai.core.errors import NotFiniteError, OsaiError, from_proto
from osai.core.frames import FrameShape
from osai.core.layers import LayerRange
from osai.core.link import EdgeLink, edge_link
from osai.core.rpc import EDGE_MAX_BYTES, bind, make_server
from osai.node.edge_service import EdgeService
from osai.node.engine.api import Input, Rows, SessionSpec, StepOutput
from osai.node.engine.engine import Engine
from osai.node.ring import Ring, ServedSpan
from osai.node.stages.pushing import Traffic
from osai.node.stages.stage import HostedSpan, Peer
from osai.proto import common_pb2, edge_pb2, edge_pb2_grpc

Message = edge_pb2.LinkMessage
MODEL, DIGEST, HIDDEN_SIZE = "me/small", b"d" * 32, 4
HEAD, MIDDLE, TAIL, WHOLE = LayerRange(0, 2), LayerRange(2, 4), LayerRange(4, 6), LayerRange(0, 6)


class FakeEngine(Engine):
    """The engine as the ring uses it; its steps are the test's."""

    def __init__(self, on_output: Callable[[StepOutput], None]) -> None:
        self.put_out = on_output
        self.sessions: dict[int, SessionSpec] = {}
        self.inputs: list[Input] = []
        self.closed: list[int] = []
        self.cuts: list[tuple[int, int]] = []  # (session, position)
        self.kept: dict[int, tuple[bytes, ...]] = {}  # what was said of a closed session's blocks
        self.num_cached_tokens = 0  # of the next sessions' prompts
        self.refusal: OsaiError | None = None  # of the next session or input

    def _refuse(self) -> None:
        if (error := self.refusal) is not None:
            self.refusal = None
            raise error

    async def open(self, spec: SessionSpec) -> int:
        self._refuse()
        self.sessions[spec.session] = spec
        return self.num_cached_tokens

    def submit(self, inp: Input) -> None:
        self._refuse()
        if inp.data.is_floating_point() and not inp.data.isfinite().all():  # as osai.node.engine.input_checks
            raise NotFiniteError("hidden states are not finite")
        self.inputs.append(inp)

    async def resume(self, spec: SessionSpec, position: int) -> None:
        self._refuse()
        self.sessions[spec.session] = spec
        self.cuts.append((spec.session, position))

    async def cut(self, session: int, position: int) -> None:
        self._refuse()
        self.cuts.append((session, position))

    def release(self, session: int, block_hashes: Sequence[bytes] = ()) -> None:
        self.closed.append(session)
        self.kept[session] = tuple(block_hashes)
        self.sessions.pop(session, None)

    def num_free_kv_tokens(self, key: str) -> int:
        assert key == MODEL
        return 1000

    def step(self, *rows: Rows, hidden: torch.Tensor | None = None, **fields: Any) -> None:  # noqa: ANN401
        self.put_out(StepOutput(span=MODEL, rows=rows, hidden=hidden, **fields))


def open_session(session: int, layers: LayerRange, successor: Peer, **fields: Any) -> edge_pb2.OpenSession:  # noqa: ANN401
    """A coordinator's wish: a prompt of 3 tokens, 10 in all."""
    values = {
        "epoch": 1,
        "model_id": MODEL,
        "manifest_digest": DIGEST,
        "num_prompt_tokens": 3,
        "max_total_tokens": 10,
        "sampling": common_pb2.SamplingParams(top_p=1.0, repetition_penalty=1.0),
        "span": common_pb2.LayerRange(start=layers.start, end=layers.end),
        "successor": common_pb2.Stage(node_id=successor.node_id, address=successor.address),
    }
    return edge_pb2.OpenSession(session=session, **{**values, **fields})


@dataclass
class Node:
    """A node's ring behind its edge, and a coordinator's link to it."""

    ring: Ring
    engine: FakeEngine
    address: str
    link: EdgeLink
    told: list[Message] = field(default_factory=list)

    def open(self, session: int, layers: LayerRange, successor: Peer, **fields: Any) -> None:  # noqa: ANN401
        self.link.send(Message(open=open_session(session, layers, successor, **fields)))

    async def hears(self, count: int = 1) -> Message:
        """Wait until the coordinator has been told so much; the last of it."""
        await until(lambda: len(self.told) >= count)
        assert len(self.told) == count
        return self.told[-1]

    async def opens(self, session: int, layers: LayerRange, successor: Peer, **fields: Any) -> None:  # noqa: ANN401
        before = len(self.told)
        self.open(session, layers, successor, **fields)
        assert (await self.hears(before + 1)).opened == edge_pb2.SessionOpened(session=session, epoch=1)

    async def fails(self, count: int = 1) -> tuple[int, OsaiError]:
        """The session that the coordinator is told has failed, and why."""
        message = await self.hears(count)
        assert message.WhichOneof("kind") == "failed"
        return message.failed.session, from_proto(message.failed.error)


NEXT = Peer(node_id="next", address="127.0.0.1:9")  # nothing listens on the discard port


@asynccontextmanager
async def node(
    layers: LayerRange, dtype: torch.dtype = torch.float32, on_traffic: Traffic | None = None
) -> AsyncIterator[Node]:
    server = make_server(max_message_bytes=EDGE_MAX_BYTES)
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
    wire = {torch.float32: common_pb2.DTYPE_FLOAT32, torch.bfloat16: common_pb2.DTYPE_BFLOAT16}[dtype]
    token_ids = FrameShape(dtype=common_pb2.DTYPE_INT32, hidden_size=None)
    shape = token_ids if layers.start == 0 else FrameShape(dtype=wire, hidden_size=HIDDEN_SIZE)
    hosted = HostedSpan(key=MODEL, layers=layers, num_layers=6, manifest_digest=DIGEST)
    engine: list[FakeEngine] = []

    def make_engine(on_output: Callable[[StepOutput], None]) -> Engine:
        engine.append(FakeEngine(on_output))
        return engine[0]

    async with Ring(Peer(node_id="me", address=address), make_engine, on_traffic=on_traffic) as it:
        it.serve(ServedSpan(hosted=hosted, frames=shape))
        edge_pb2_grpc.add_EdgeServicer_to_server(EdgeService("me", it), server)
        await server.start()
        told: list[Message] = []
        link = edge_link("me", address, "coordinator", told.append)
        running = asyncio.create_task(link.run())
        try:
            yield Node(it, engine[0], address, link, told)
        finally:
            running.cancel()
            await asyncio.wait([running])
            await server.stop(None)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the ring reports by callback
            await asyncio.sleep(0.002)


def rows(session: int = 1, position: int = 0, count: int = 3, epoch: int = 1) -> Rows:
    return Rows(session=session, epoch=epoch, position=position, count=count)


def hidden(num_tokens: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows that differ, [num_tokens, HIDDEN_SIZE]."""
    return (torch.arange(num_tokens * HIDDEN_SIZE).reshape(num_tokens, HIDDEN_SIZE) / 8).to(dtype)


def ids(*token_ids: int) -> torch.Tensor:
    return torch.tensor(token_ids, dtype=torch.int32)
