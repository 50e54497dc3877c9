"""A process under attack over its sockets: typed errors, steady memory, and honest peers beside that notice nothing."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from scripts.chaos_runs.wire_attacks import ATTACKS, NUM_TOLD, UntypedError, Victim
from scripts.chaos_runs.wire_span import UNHURRIED, hidden, open_session, rows, unhurried_link

from osai.core.errors import InternalError, OsaiError
from osai.core.rpc import insecure_channel
from osai.node.wire import write_batch
from osai.proto import client_pb2, client_pb2_grpc, edge_pb2

MAX_GROWN_BYTES = 64 * 2**20
ROUND_DEADLINE_S = 90.0  # as an attack's: the honest peer shares the machine with it, and with other work
STOP_DEADLINE_S = 60.0
NUM_ROUNDS = 3  # before and after an attack; during it they go on
Message = edge_pb2.LinkMessage


@contextmanager
def attacked_process() -> Iterator[Victim]:
    """A node's edge and a coordinator's front door, in a process of their own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GRPC_VERBOSITY": "NONE"}
    command = [sys.executable, "-m", "scripts.chaos_runs.wire_victim"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        if process.stdout is None or process.stdin is None:
            raise InternalError("the attacked process has no pipes")
        yield Victim(**json.loads(process.stdout.readline()), pid=process.pid)
        process.stdin.close()
        try:
            if status := process.wait(STOP_DEADLINE_S):
                raise InternalError(f"the attacked process ended with {status}")
        finally:
            process.kill()


class Memory:
    """The most that a process has taken since the beginning, over what it took then."""

    def __init__(self, pid: int) -> None:
        self._status, reset = Path(f"/proc/{pid}/status"), Path(f"/proc/{pid}/clear_refs")
        reset.write_text("5")
        self._before = psutil.Process(pid).memory_info().rss

    @property
    def grown_bytes(self) -> int:
        """Until now."""
        peak = next(line for line in self._status.read_text().splitlines() if line.startswith("VmHWM"))
        return max(0, int(peak.split()[1]) * 1024 - self._before)


class Honest:
    """A peer and client that does what is due, round after round: a row, a probe, a generation."""

    def __init__(self, victim: Victim) -> None:
        self.num_rounds = 0
        self._victim, self._told = victim, list[Message]()
        self._link = unhurried_link(victim.edge, self._heard)
        self._news, self._round_done = asyncio.Event(), asyncio.Event()

    def _heard(self, message: Message) -> None:
        self._told.append(message)
        self._news.set()

    async def run(self) -> None:
        """Go on until cancelled; raises where anything is not as it must be."""
        running = asyncio.create_task(self._link.run())
        self._link.send(Message(open=open_session(1, max_total_tokens=2**20)))
        try:
            async with insecure_channel(self._victim.coordinator, pings=UNHURRIED) as channel:
                while True:
                    async with asyncio.timeout(ROUND_DEADLINE_S):
                        await self._round(client_pb2_grpc.CoordinatorStub(channel))
                    self.num_rounds += 1
                    self._round_done.set()
                    await asyncio.sleep(0.02)
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def _round(self, stub: "client_pb2_grpc.CoordinatorAsyncStub") -> None:
        number = self.num_rounds
        self._link.send(write_batch([rows(1, position=number, count=1)], hidden(1)))
        self._link.send(Message(probe=edge_pb2.Probe(sent_ns=number)))
        events = [event async for event in stub.Generate(client_pb2.GenerateRequest(prompt="x" * (number + 1)))]
        if events[-1].finished.num_prompt_tokens != number + 1:
            raise InternalError("an honest client was answered something else")
        while len(self._told) < number + 2:
            self._news.clear()
            await self._news.wait()
        if self._told[-1] != Message(echo=edge_pb2.Probe(sent_ns=number)):
            raise InternalError(f"an honest peer was told {self._told[-1]}")

    async def rounds(self, going: "asyncio.Task[None]", count: int) -> None:
        """Return once so many more rounds are through; raises what has ended them."""
        due = self.num_rounds + count
        while self.num_rounds < due and not going.done():
            self._round_done.clear()
            waiting = asyncio.create_task(self._round_done.wait())
            await asyncio.wait([waiting, going], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if going.done():
            going.result()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of one attack.

    Attributes:
        num_told: typed errors that the attacker was told.
        wrong: what should not be; empty where all is well.
        grown_bytes: of the attacked process's memory at most.
    """

    name: str
    num_told: int
    wrong: str
    grown_bytes: int

    @property
    def passed(self) -> bool:
        """Whether the attacked process did what it must."""
        return not self.wrong and self.num_told == NUM_TOLD[self.name] and self.grown_bytes < MAX_GROWN_BYTES


async def attack_wire(victim: Victim, name: str) -> Trial:
    """Attack while an honest peer and client go on.

    Raises:
        Exception: what ended the honest ones.
    """
    honest, told, wrong = Honest(victim), list[OsaiError](), ""
    going = asyncio.create_task(honest.run())
    try:
        await honest.rounds(going, NUM_ROUNDS)  # the process is warm by then
        memory = Memory(victim.pid)
        try:
            told = list(await ATTACKS[name](victim))
        except (UntypedError, TimeoutError) as e:
            wrong = f"{type(e).__name__}: {e}"
        await honest.rounds(going, NUM_ROUNDS)
    finally:
        going.cancel()
        await asyncio.wait([going])
    untyped = [error for error in told if isinstance(error, InternalError)]
    wrong = wrong or (f"{untyped[0]!r}" if untyped else "")
    return Trial(name=name, num_told=len(told), wrong=wrong, grown_bytes=memory.grown_bytes)
