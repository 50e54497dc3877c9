"""A process under attack over its sockets: typed errors, steady memory, and honest peers beside that notice nothing."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from bounds.wire_attacks import ATTACKS, NUM_TOLD, Victim
from node.fake_engine import MIDDLE, NEXT, Message, hidden, open_session, rows
from osai.core.errors import InternalError, OsaiError
from osai.core.link import edge_link
from osai.core.rpc import insecure_channel
from osai.node.wire import write_batch
from osai.proto import client_pb2, client_pb2_grpc, edge_pb2

MAX_GROWN_BYTES = 64 * 2**20
ROUND_DEADLINE_S = 15.0


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GRPC_VERBOSITY": "NONE"}
    command = [sys.executable, "-m", "bounds.victim"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield Victim(**json.loads(process.stdout.readline()), pid=process.pid)
        process.stdin.close()
        assert process.wait(20) == 0


class Memory:
    """The most that a process has taken since the beginning of the block, over what it took then."""

    def __init__(self, pid: int) -> None:
        self._status, self._reset = Path(f"/proc/{pid}/status"), Path(f"/proc/{pid}/clear_refs")
        self._reset.write_text("5")
        self._before = psutil.Process(pid).memory_info().rss

    @property
    def grown_bytes(self) -> int:
        peak = next(line for line in self._status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 - self._before


@asynccontextmanager
async def honest(victim: Victim) -> AsyncIterator[list[float]]:
    """A session with rows, probes and generations, round after round; the seconds of each."""
    told: list[Message] = []
    link = edge_link("me", victim.edge, "honest", told.append)
    running = asyncio.create_task(link.run())
    link.send(Message(open=open_session(1, MIDDLE, NEXT, max_total_tokens=2**20)))
    rounds: list[float] = []

    async def go_on() -> None:
        async with insecure_channel(victim.coordinator) as channel:
            stub, clock_s = client_pb2_grpc.CoordinatorStub(channel), asyncio.get_running_loop().time
            while True:
                begun_s, number = clock_s(), len(rounds)
                async with asyncio.timeout(ROUND_DEADLINE_S):
                    link.send(write_batch([rows(1, position=number, count=1)], hidden(1)))
                    link.send(Message(probe=edge_pb2.Probe(sent_ns=number)))
                    request = client_pb2.GenerateRequest(prompt="x" * (number + 1))
                    events = [event async for event in stub.Generate(request)]
                    assert events[-1].finished.num_prompt_tokens == number + 1
                    while told[-1].echo.sent_ns != number or len(told) < 2:
                        await asyncio.sleep(0.001)
                assert all(message.WhichOneof("kind") in ("opened", "echo") for message in told), told[-1]
                rounds.append(clock_s() - begun_s)
                await asyncio.sleep(0.02)

    going = asyncio.create_task(go_on())
    try:
        yield rounds
        num_rounds = len(rounds)
        async with asyncio.timeout(ROUND_DEADLINE_S):
            while len(rounds) <= num_rounds and not going.done():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
    finally:
        going.cancel()
        await asyncio.wait([going])
        running.cancel()
        await asyncio.wait([running])
    if not going.cancelled():
        going.result()
    assert len(rounds) > 1


@pytest.mark.parametrize("name", list(ATTACKS))
async def test_an_attack_ends_with_typed_errors_and_costs_honest_peers_nothing(victim: Victim, name: str) -> None:
    async with honest(victim) as rounds:
        while not rounds:  # noqa: ASYNC110 - the process is warm then
            await asyncio.sleep(0.01)
        memory = Memory(victim.pid)
        told = await ATTACKS[name](victim)
        assert len(told) == NUM_TOLD[name]
        assert all(isinstance(error, OsaiError) and not isinstance(error, InternalError) for error in told), told
    assert memory.grown_bytes < MAX_GROWN_BYTES, f"{memory.grown_bytes / 2**20:.0f} MiB"
