"""A node's ring under attack, with an honest session beside: whatever else comes, that one goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import torch
from scripts.benches.echo_stage import DTYPE, HIDDEN_SIZE, MODEL_ID, NUM_LAYERS, RowsEngine
from scripts.chaos_runs.mutants import damaged, drawn

from osai.core.errors import InternalError, OsaiError, from_proto
from osai.core.frames import FrameShape
from osai.core.layers import LayerRange
from osai.node.engine.api import Input, Rows, SessionSpec, StepOutput
from osai.node.ring import Ring, ServedSpan
from osai.node.stages.stage import HostedSpan, Peer
from osai.node.wire import write_batch
from osai.proto import common_pb2, edge_pb2

LAYERS = LayerRange(1, 2)
HONEST = 1
MAX_TOTAL_TOKENS = 2**20
ROW_DEADLINE_S = 5.0


class QuietEngine(RowsEngine):
    """Takes every session, and computes nothing."""

    async def resume(self, spec: SessionSpec, position: int) -> None:
        """A later epoch."""

    async def cut(self, session: int, position: int) -> None:
        """Rows are forgotten."""

    def release(self, session: int, block_hashes: Sequence[bytes] = ()) -> None:
        """A session has ended."""


class Honest:
    """A session whose rows must come through."""

    def __init__(self) -> None:
        self.ring: Ring | None = None
        self.owner = 0
        self._position = 0
        self._came: asyncio.Future[Input] | None = None

    def on_rows(self, inp: Input, _: Callable[[StepOutput], None]) -> None:
        """The engine has rows to run."""
        if inp.rows.session == HONEST and self._came is not None and not self._came.done():
            self._came.set_result(inp)

    async def row(self) -> None:
        """Send one more row.

        Raises:
            InternalError: if it does not come through, or not as it was sent.
        """
        if self.ring is None:
            raise InternalError("the ring is not up")
        sent = torch.full((1, HIDDEN_SIZE), float(self._position % 7)).bfloat16()
        rows = Rows(session=HONEST, epoch=2, position=self._position, count=1)
        self._came = asyncio.get_running_loop().create_future()
        await self.ring.receive(self.owner, write_batch([rows], sent))
        async with asyncio.timeout(ROW_DEADLINE_S):
            inp = await self._came
        if inp.rows != rows or not torch.equal(inp.data, sent):
            raise InternalError("the honest session's row came through changed")
        self._position += 1


@asynccontextmanager
async def attacked_ring() -> AsyncIterator[Callable[[Random], Awaitable[None]]]:
    """Gives what sends one message to a ring; every fifth one is followed by a row of the honest session."""
    loop, honest = asyncio.get_running_loop(), Honest()
    me = Peer(node_id="me", address="127.0.0.1:9")
    async with Ring(me, lambda on_output: QuietEngine(loop, on_output, honest.on_rows)) as ring:
        hosted = HostedSpan(key=MODEL_ID, layers=LAYERS, num_layers=NUM_LAYERS, manifest_digest=b"")
        ring.serve(ServedSpan(hosted=hosted, frames=FrameShape(dtype=DTYPE, hidden_size=HIDDEN_SIZE)))
        honest.ring, (honest.owner, told) = ring, ring.attach("honest")
        await ring.receive(honest.owner, edge_pb2.LinkMessage(open=_opening(HONEST)))
        await told.get()
        attacker, answers = ring.attach("attacker")

        async def feed(random: Random) -> None:
            if random.random() < 0.2:
                await honest.row()
            message = _mutant(random)
            await ring.receive(attacker, message)
            while answers.num_waiting:
                answer = await answers.get()
                if answer.HasField("failed"):
                    raise _told(answer)

        yield feed


def _told(answer: edge_pb2.LinkMessage) -> OsaiError:
    error = from_proto(answer.failed.error)
    if type(error) is InternalError:
        raise RuntimeError(f"the node failed: {error}")
    return error


def _mutant(random: Random) -> edge_pb2.LinkMessage:
    if random.random() < 0.3:
        message = edge_pb2.LinkMessage(open=_opening(random.randint(2, 5)))
        message.open.epoch = random.randint(0, 3)
    else:
        message = edge_pb2.LinkMessage()
        drawn(message, random)
    for part in (message.open, message.close, message.resume, message.follow):
        if part.session == HONEST:  # in a public swarm whoever knows a session's number may end it: it is a secret
            part.session = 2
    if random.random() < 0.5:
        return message
    return edge_pb2.LinkMessage.FromString(damaged(message.SerializeToString(), random))


def _opening(session: int) -> edge_pb2.OpenSession:
    return edge_pb2.OpenSession(
        session=session,
        epoch=2,
        model_id=MODEL_ID,
        span=common_pb2.LayerRange(start=LAYERS.start, end=LAYERS.end),
        successor=common_pb2.Stage(node_id="next", address="127.0.0.1:9"),
        num_prompt_tokens=1,
        max_total_tokens=MAX_TOTAL_TOKENS,
        sampling=common_pb2.SamplingParams(top_p=1.0, repetition_penalty=1.0),
    )
