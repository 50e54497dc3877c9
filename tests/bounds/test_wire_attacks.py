"""A process under attack over its sockets: typed errors, steady memory, and honest peers beside that notice nothing."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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
ROUND_DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GRPC_VERBOSITY": "NONE"}
    command = [sys.executable, "-m", "bounds.victim"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield Victim(**json.loads(process.stdout.readline()), pid=process.pid)
        process.stdin.close()
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()


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


class Honest:
    """A peer and client that does what is due, round after round: a row, a probe, a generation."""

    def __init__(self, victim: Victim) -> None:
        self.num_rounds = 0
        self._victim, self._told = victim, list[Message]()
        self._link = edge_link("me", victim.edge, "honest", self._told.append)

    async def run(self) -> None:
        """Go on until cancelled; raises where anything is not as it must be."""
        running = asyncio.create_task(self._link.run())
        self._link.send(Message(open=open_session(1, MIDDLE, NEXT, max_total_tokens=2**20)))
        try:
            async with insecure_channel(self._victim.coordinator) as channel:
                while True:
                    async with asyncio.timeout(ROUND_DEADLINE_S):
                        await self._round(client_pb2_grpc.CoordinatorStub(channel))
                    self.num_rounds += 1
                    await asyncio.sleep(0.02)
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _round(self, stub: "client_pb2_grpc.CoordinatorAsyncStub") -> None:
        number = self.num_rounds
        self._link.send(write_batch([rows(1, position=number, count=1)], hidden(1)))
        self._link.send(Message(probe=edge_pb2.Probe(sent_ns=number)))
        request = client_pb2.GenerateRequest(prompt="x" * (number + 1))
        events = [event async for event in stub.Generate(request)]
        assert events[-1].finished.num_prompt_tokens == number + 1
        while len(self._told) < number + 2:  # noqa: ASYNC110 - links report by callback
            await asyncio.sleep(0.001)
        assert self._told[-1] == Message(echo=edge_pb2.Probe(sent_ns=number))

    async def rounds(self, going: "asyncio.Task[None]", count: int) -> None:
        """Return once so many more rounds are through; raises what has ended them."""
        due = self.num_rounds + count
        while self.num_rounds < due and not going.done():  # noqa: ASYNC110 - rounds are no events
            await asyncio.sleep(0.005)
        if going.done():
            going.result()


@pytest.mark.parametrize("name", list(ATTACKS))
async def test_an_attack_ends_with_typed_errors_and_costs_honest_peers_nothing(victim: Victim, name: str) -> None:
    honest = Honest(victim)
    going = asyncio.create_task(honest.run())
    try:
        await honest.rounds(going, 3)  # the process is warm by then
        memory = Memory(victim.pid)
        told = await ATTACKS[name](victim)
        await honest.rounds(going, 3)
    finally:
        going.cancel()
        await asyncio.wait([going])
    assert len(told) == NUM_TOLD[name]
    assert all(isinstance(error, OsaiError) and not isinstance(error, InternalError) for error in told), told
    assert memory.grown_bytes < MAX_GROWN_BYTES, f"{memory.grown_bytes / 2**20:.0f} MiB"
