"""Nodes with real engines and links on loopback, and a coordinator of one session that does what a test tells it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from engine.harness import KV_BUDGET_BYTES, load
from node.fake_engine import DIGEST, MODEL, Message, ids, open_session
from osai.core.errors import OsaiError
from osai.core.frames import FrameShape
from osai.core.layers import LayerRange
from osai.core.link import EdgeLink, edge_link
from osai.core.rpc import EDGE_MAX_BYTES, bind, make_server
from osai.node.edge_service import EdgeService
from osai.node.engine.api import Rows, StepOutput
from osai.node.engine.engine import Engine
from osai.node.engine.options import EngineOptions
from osai.node.ring import Ring, ServedSpan
from osai.node.stages.journal import DEFAULT_BYTES
from osai.node.stages.stage import HostedSpan, Peer
from osai.node.wire import write_batch
from osai.proto import common_pb2, edge_pb2, edge_pb2_grpc

NUM_LAYERS = 6
DEADLINE_S = 30.0
SESSION = 77


@dataclass
class StageNode:
    """A node that hosts one span."""

    node_id: str
    layers: LayerRange
    address: str
    ring: Ring
    engine: Engine
    server: grpc.aio.Server
    rows: list[Rows] = field(default_factory=list)  # that its steps have run

    @property
    def peer(self) -> Peer:
        return Peer(node_id=self.node_id, address=self.address)

    async def die(self) -> None:
        """Every link to it ends, and none begins."""
        await self.server.stop(None)


@asynccontextmanager
async def stage_node(
    node_id: str, path: Path, layers: LayerRange, journal_bytes: int = DEFAULT_BYTES
) -> AsyncIterator[StageNode]:
    server = make_server(max_message_bytes=EDGE_MAX_BYTES)
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
    model, loop = load(path, layers), asyncio.get_running_loop()
    failures: list[OsaiError] = []
    ran: list[Rows] = []

    def make_engine(on_output: Callable[[StepOutput], None]) -> Engine:
        def note(output: StepOutput) -> None:
            ran.extend(output.rows)
            on_output(output)

        return Engine(loop, note, failures.append, EngineOptions(max_prefill_tokens=16))

    token_ids = FrameShape(dtype=common_pb2.DTYPE_INT32, hidden_size=None)
    hidden = FrameShape(dtype=common_pb2.DTYPE_FLOAT32, hidden_size=model.hidden_size)
    hosted = HostedSpan(key=MODEL, layers=layers, num_layers=NUM_LAYERS, manifest_digest=DIGEST)
    async with Ring(Peer(node_id=node_id, address=address), make_engine, journal_bytes=journal_bytes) as ring:
        ring.engine.start()
        await ring.engine.add_span(MODEL, model, KV_BUDGET_BYTES)
        ring.serve(ServedSpan(hosted=hosted, frames=token_ids if layers.start == 0 else hidden))
        edge_pb2_grpc.add_EdgeServicer_to_server(EdgeService(node_id, ring), server)
        await server.start()
        try:
            yield StageNode(node_id, layers, address, ring, ring.engine, server, ran)
        finally:
            await server.stop(None)
            await ring.engine.stop()
    assert not failures


class Conductor:
    """A coordinator's part in one session: epochs, plans, ids. Use it as an async context manager."""

    def __init__(self, prompt: Sequence[int], max_total_tokens: int, sampling: common_pb2.SamplingParams) -> None:
        self._prompt, self._max_total, self._sampling = list(prompt), max_total_tokens, sampling
        self._links: dict[str, EdgeLink] = {}
        self._tasks: list[asyncio.Task[object]] = []
        self.epoch, self.deadline_s = 0, DEADLINE_S
        self.tokens: list[int] = []
        self.is_finished = False
        self.opened: dict[tuple[int, str], edge_pb2.SessionOpened] = {}
        self.failed: list[tuple[str, edge_pb2.SessionFailed]] = []
        self.progress: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def known(self) -> list[int]:
        return self._prompt + self.tokens

    def tell(self, node: StageNode, message: Message) -> None:
        if node.node_id not in self._links:
            link = edge_link(node.node_id, node.address, "coordinator", lambda m: self._hear(node.node_id, m))
            self._links[node.node_id] = link
            self._tasks.append(asyncio.create_task(link.run()))
        self._links[node.node_id].send(message)

    def _hear(self, node_id: str, message: Message) -> None:
        match message.WhichOneof("kind"):
            case "opened":
                self.opened[message.opened.epoch, node_id] = message.opened
            case "failed":
                self.failed.append((node_id, message.failed))
            case "progress":
                self.progress[node_id] = message.progress.position
            case "tokens":
                for token in message.tokens.tokens:
                    if token.epoch != self.epoch:
                        continue
                    assert token.index == len(self.tokens), "tokens come in order, each once"
                    self.tokens.append(token.token.token_id)
                    self.is_finished = token.finish != common_pb2.FINISH_REASON_UNSPECIFIED

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(self.deadline_s):
            while not condition():  # noqa: ASYNC110 - links report by callback
                await asyncio.sleep(0.001)

    async def _open(self, nodes: Sequence[StageNode], pipeline: Sequence[StageNode], **fields: bool) -> None:
        for node in nodes:
            successor = next((n for n in pipeline if n.layers.start == node.layers.end), pipeline[0])
            wish = open_session(
                SESSION,
                node.layers,
                successor.peer,
                epoch=self.epoch,
                num_prompt_tokens=len(self._prompt),
                max_total_tokens=self._max_total,
                sampling=self._sampling,
                prompt_token_ids=self.known,
                num_known_tokens=len(self.known),
                num_stages=len(pipeline),
                **fields,
            )
            self.tell(node, Message(open=wish))
        await self.until(lambda: all((self.epoch, node.node_id) in self.opened for node in nodes))

    def _send_ids(self, head: StageNode, start: int) -> None:
        rows = Rows(session=SESSION, epoch=self.epoch, position=start, count=len(self.known) - start)
        self.tell(head, write_batch([rows], ids(*self.known[start:])))

    async def begin(self, *pipeline: StageNode) -> None:
        """Open the session and send the prompt."""
        self.epoch = 1
        await self._open(pipeline, pipeline)
        self._send_ids(pipeline[0], 0)

    async def reroute(self, *pipeline: StageNode, journals: bool = True) -> list[int]:
        """Go on along another pipeline; the rows from which each stage does. `journals`: believe what they say."""
        self.epoch += 1
        await self._open(pipeline, pipeline, resume=True)
        opened = [self.opened[self.epoch, node.node_id] for node in pipeline]
        starts = [answer.position for answer in opened]
        for i in reversed(range(len(starts) - 1)):
            lacks = starts[i] > starts[i + 1] and opened[i].journal_begin > starts[i + 1]
            starts[i] = starts[i + 1] if lacks and journals else starts[i]
        for node, start, push_from in zip(pipeline, starts, [*starts[1:], starts[-1]], strict=True):
            resume = edge_pb2.ResumeSession(session=SESSION, epoch=self.epoch, position=start, push_from=push_from)
            self.tell(node, Message(resume=resume))
        self._send_ids(pipeline[0], starts[0])
        return starts

    async def follow(self, standby: StageNode, predecessor: StageNode, *pipeline: StageNode) -> None:
        """Let a standby catch up with a stage of the pipeline that runs."""
        await self._open([standby], pipeline, follow=True)
        follow_from = self.opened[self.epoch, standby.node_id].position
        follower = common_pb2.Stage(node_id=standby.node_id, address=standby.address)
        follow = edge_pb2.FollowSession(session=SESSION, epoch=self.epoch, follower=follower, follow_from=follow_from)
        self.tell(predecessor, Message(follow=follow))
