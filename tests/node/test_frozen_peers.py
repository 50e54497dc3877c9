"""Peers that are stopped keep their sockets open and say nothing; whoever waits for them must know within 2 s."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from node.fake_engine import MIDDLE, NEXT, Message, Node, hidden, node, open_session, rows
from osai.core.errors import UnavailableError, from_proto
from osai.node.stages.stage import Peer

NOTICED_S = 2.0 + 1.0  # a busy machine takes its time to say so
START_S = 30.0  # a process that imports gRPC on a busy machine
SUCCESSOR = """
import asyncio
from coordinator.fake_stage import FakeStage, silent, stages
async def main():
    stage = FakeStage("next", silent)
    async with stages(stage):
        print(stage.address, flush=True)
        while True:
            await stage.got("frames", len(stage.of("frames")) + 1)
            print("got", flush=True)
asyncio.run(main())
"""
OWNER = """
import asyncio, sys
from osai.core.link import edge_link
from osai.proto import edge_pb2
async def main():
    link = edge_link("me", sys.argv[1], "another", lambda _: print("opened", flush=True))
    link.send(edge_pb2.LinkMessage.FromString(bytes.fromhex(sys.argv[2])))
    await link.run()
asyncio.run(main())
"""


class Process:
    """A peer that can be stopped."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START_S)
        assert line, "the peer ended"
        return line.decode().strip()

    def stop(self) -> float:
        """SIGSTOP; the time."""
        self._process.send_signal(signal.SIGSTOP)
        return time.monotonic()


@asynccontextmanager
async def process(code: str, *arguments: str) -> AsyncIterator[Process]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        yield Process(child)
    finally:
        child.kill()
        await child.wait()


async def push(it: Node) -> None:
    """A row goes to the successor every 20 ms."""
    for position in range(3, 1000):
        it.engine.step(rows(1, position, 1), hidden=hidden(1))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("busy", [False, True])
async def test_a_stopped_successor_is_noticed(*, busy: bool) -> None:
    async with process(SUCCESSOR) as successor, node(MIDDLE) as it:
        peer = Peer(node_id="next", address=await successor.says())
        await it.opens(1, MIDDLE, peer)
        it.engine.step(rows(1), hidden=hidden(3))
        assert await successor.says() == "got"
        await asyncio.sleep(1.5)  # a healthy but silent peer stays connected over several pings
        assert len(it.told) == 1
        pushing = asyncio.create_task(push(it)) if busy else None
        await asyncio.sleep(0.2)
        stopped_s = successor.stop()
        message = await it.hears(2)
        took_s = time.monotonic() - stopped_s
        if pushing is not None:
            pushing.cancel()
        error = from_proto(message.failed.error)
        assert (message.failed.open, type(error), error.subject) == (True, UnavailableError, "next")
        assert took_s < NOTICED_S, f"it took {took_s:.2f} s"


async def test_a_stopped_coordinator_leaves_orphans() -> None:
    wish = Message(open=open_session(2, MIDDLE, NEXT)).SerializeToString().hex()
    async with node(MIDDLE) as it, process(OWNER, it.address, wish) as owner:
        await it.opens(1, MIDDLE, NEXT)
        assert await owner.says() == "opened"
        assert it.ring.num_sessions == 2
        await asyncio.sleep(1.5)
        assert it.ring.num_sessions == 2
        stopped_s = owner.stop()
        async with asyncio.timeout(10):
            while it.ring.num_sessions == 2:  # noqa: ASYNC110 - the ring tells nobody
                await asyncio.sleep(0.01)
        took_s = time.monotonic() - stopped_s
        assert it.engine.closed == [], "another coordinator may come for it"
        assert took_s < NOTICED_S, f"it took {took_s:.2f} s"
