"""An honest session over real engines and links, beside peers that follow no rule: the same tokens as undisturbed."""

import asyncio
from collections.abc import AsyncIterator, Sized
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import torch
from scripts.chaos_runs.mutants import damaged, drawn

from engine.harness import PROMPT, WHOLE, load, running
from families.fixtures import Checkpoints
from node.fake_engine import MODEL, NEXT, Message, hidden, ids, node, open_session, rows, until
from node.ring_pipeline import SESSION, Conductor, StageNode, stage_node
from osai.core.call_end import CallEnd
from osai.core.errors import BadFrameError, InternalError, OsaiError, from_proto
from osai.core.layers import LayerRange
from osai.core.link import edge_link
from osai.core.protocol import hello
from osai.core.rpc import EDGE_MAX_BYTES, error_of, insecure_channel
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Rows
from osai.node.wire import write_batch
from osai.proto import common_pb2

NUM_TOKENS = 60
SAMPLING = SamplingParams(temperature=1.2, top_p=0.95, seed=5, repetition_penalty=1.1)
ON_WIRE = common_pb2.SamplingParams(temperature=1.2, top_p=0.95, seed=5, repetition_penalty=1.1)
SPANS = (LayerRange(0, 2), LayerRange(2, 4), LayerRange(4, 6))


class Attacker:
    """A peer that greets, and then sends what it likes to one node; it dials anew when it is thrown out.

    Attributes:
        errors: that it was told of: of sessions, and why its links ended.
    """

    def __init__(self, node: StageNode, random: Random) -> None:
        self._node, self._random = node, random
        self.errors: list[OsaiError] = []
        self.num_sent = 0

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            async with insecure_channel(self._node.address, max_message_bytes=EDGE_MAX_BYTES) as channel:
                call: Any = channel.stream_stream("/osai.v1.Edge/Link")()
                reading = asyncio.create_task(self._read(call))
                try:
                    await call.write(Message(hello=hello(f"attacker {self.num_sent}")).SerializeToString())
                    while not reading.done():
                        await call.write(self._odd())
                        self.num_sent += 1
                        await asyncio.sleep(0.005)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await asyncio.wait([reading])  # it says why
                finally:
                    reading.cancel()
                    call.cancel()
                    await asyncio.wait([reading])

    async def _read(self, call: Any) -> None:  # noqa: ANN401
        end = CallEnd(call)
        try:
            while (data := await call.read()) is not grpc.aio.EOF:
                answer = Message.FromString(data)
                if answer.HasField("failed"):
                    self.errors.append(from_proto(answer.failed.error))
        except grpc.aio.AioRpcError as e:
            self.errors.append(error_of(await end.failure(e)))

    def _odd(self) -> bytes:
        kind = self._random.randrange(4)
        if kind == 0:
            return self._poison().SerializeToString()
        if kind == 1:
            session = self._random.randint(1, 5)
            wish = open_session(session, self._node.layers, self._node.peer, model_id=MODEL, num_stages=1)
            return Message(open=wish).SerializeToString()
        message = Message()
        drawn(message, self._random)
        parts: tuple[Any, ...] = (message.open, message.close, message.resume, message.follow)
        for part in parts:
            part.session %= 6  # a session's number is a secret in a public swarm: who knows it may end it
        data = message.SerializeToString()
        return data if kind == 2 else damaged(data, self._random)

    def _poison(self) -> Message:
        """Rows of the honest session itself, as its number is known: of no use in any form."""
        value = self._random.choice([float("nan"), float("inf"), float("-inf")])
        lie = Rows(session=SESSION, epoch=1, position=self._random.randint(0, 70), count=2)
        if self._node.layers.start == 0:
            return write_batch([lie], ids(2**31 - 1, -1))
        width = self._random.choice([self._node.engine._admission.span(MODEL).model.hidden_size, 7])
        return write_batch([lie], torch.full((2, width), value))


@asynccontextmanager
async def attacked(nodes: list[StageNode]) -> AsyncIterator[list[Attacker]]:
    attackers = [Attacker(node, Random(f"{node.node_id} {i}")) for node in nodes for i in range(1)]
    tasks = [asyncio.create_task(attacker.run()) for attacker in attackers]
    try:
        yield attackers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks), "an attacker was told something that is none"


async def undisturbed(path: Path) -> list[int]:
    async with running(load(path, WHOLE)) as it:
        await it.open(1, len(PROMPT), len(PROMPT) + NUM_TOKENS, SAMPLING, prompt_token_ids=PROMPT)
        return [token.token_id for token in await it.generate(1, PROMPT)]


async def test_a_session_beside_attackers_gives_the_tokens_of_an_undisturbed_one(checkpoints: Checkpoints) -> None:
    path = checkpoints("llama")
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(stage_node(f"n{span.start}", path, span)) for span in SPANS]
        conductor = await stack.enter_async_context(Conductor(PROMPT, len(PROMPT) + NUM_TOKENS, ON_WIRE))
        attackers = await stack.enter_async_context(attacked(nodes))
        await asyncio.sleep(0.2)
        await conductor.begin(*nodes)
        await conductor.until(lambda: conductor.is_finished)
        assert conductor.failed == []
        errors = [error for attacker in attackers for error in attacker.errors]
        assert not [error for error in errors if type(error) is InternalError]
        assert any(isinstance(error, BadFrameError) for error in errors)
        assert min(attacker.num_sent for attacker in attackers) > 20
        assert conductor.tokens == await undisturbed(path)


async def test_the_right_rows_are_taken_at_any_place_at_which_a_strangers_were_refused() -> None:
    """What the attackers above do by chance: odd rows of the honest session, just where its next ones are due."""
    async with node(SPANS[1]) as it:
        await it.opens(SESSION, SPANS[1], NEXT)
        refused: list[Message] = []
        stranger = edge_link("me", it.address, "stranger", refused.append)
        running = asyncio.create_task(stranger.run())

        async def so_many(things: Sized, count: int) -> None:
            await until(lambda: len(things) == count)

        try:
            for due, (position, count) in enumerate(((0, 3), (3, 1), (4, 1))):
                right = rows(SESSION, position, count)
                for i, value in enumerate((float("nan"), float("inf"))):
                    stranger.send(write_batch([right], torch.full_like(hidden(count), value)))
                    await so_many(refused, 2 * due + i + 1)
                it.link.send(write_batch([right], hidden(count)))
                await so_many(it.engine.inputs, due + 1)
                assert it.engine.inputs[-1].rows == right
        finally:
            running.cancel()
            await asyncio.wait([running])
        assert {type(from_proto(answer.failed.error)) for answer in refused} == {BadFrameError}
