"""Bench `hop`: what the edge between two nodes adds to the time of a decode frame, against bare TCP."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from scripts.benches.echo_peer import NODE_ID as PEER_ID
from scripts.benches.echo_stage import HIDDEN_SIZE, MODEL_ID, SESSION, close_session, echo_stage, open_session
from scripts.benches.private_pair import private_pair
from scripts.benches.program import running
from scripts.benches.raw_echo import GrpcPing, TcpPing
from scripts.benches.report import Result
from scripts.benches.samples import Summary
from scripts.benches.table import Table

from osai.core.errors import DeadlineExceededError, UnavailableError
from osai.core.layers import LayerRange
from osai.node.engine.api import Input, Rows, StepOutput
from osai.node.ring import Ring
from osai.node.stages.stage import Peer
from osai.node.wire import write_batch

NODE_ID = "first"
LAYERS = LayerRange(1, 2)
BLOCK = 100  # round trips on one path before the next takes its turn: short against the swings of other load
NUM_COLD = 10  # of them, left out
NUM_WARM_UP = 300  # on each path before anything counts
START_DEADLINE_S = 60.0
BLOCK_DEADLINE_S = 30.0
TCP, BARE_GRPC, EDGE, PRIVATE = "bare TCP", "bare gRPC stream", "osai edge", "osai edge, mutual TLS"
NOTES = (
    f"Two processes, uvloop in both, the same bytes on every path; the paths take turns in blocks of {BLOCK}.",
    "osai edge: from a step's output to the next step's input on the peer, and back; engines that compute nothing.",
    "Mutual TLS: the same edge in a private swarm, TLS 1.3 with both sides' certificates.",
    "Added a hop: half of the medians' difference to bare TCP. The engine's hand-over to its thread is not part of it.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_round_trips: on each path, rounded up to whole blocks; 3,000 take a few seconds and give a steady p95.
    """

    num_round_trips: int = 3000


class Ping(Protocol):
    """One way to the peer and back."""

    async def round_trip(self) -> float:
        """Seconds of one."""
        ...


class EdgePing:
    """One frame from a stage's step to its successor, and from there to this stage's own engine."""

    def __init__(self, row: torch.Tensor) -> None:
        self._row = row  # [1, hidden_size], bf16
        self._position = 0
        self._back: asyncio.Future[tuple[float, Input]] | None = None
        self.ring: Ring | None = None

    def on_rows(self, inp: Input, _: Callable[[StepOutput], None]) -> None:
        """The engine has rows to run: the frame is back."""
        if self._back is not None:
            self._back.set_result((time.perf_counter(), inp))

    async def round_trip(self) -> float:
        """Seconds from a step's output here to the next step's input here.

        Raises:
            UnavailableError: if something else comes back.
        """
        if self.ring is None:
            raise UnavailableError("the stage is not up yet")
        self._position += 1
        rows = Rows(session=SESSION, epoch=0, position=self._position, count=1)
        output = StepOutput(span=MODEL_ID, rows=(rows,), hidden=self._row)
        self._back = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        self.ring.stepped(output)
        end, inp = await self._back
        if inp.rows != rows or not torch.equal(inp.data, self._row):
            raise UnavailableError("the edge did not echo")
        return end - start


async def run(options: Options) -> Result:
    """Measure the paths in turns."""
    row = torch.randn(1, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows = Rows(session=SESSION, epoch=0, position=1, count=1)
    message = write_batch([rows], row).SerializeToString()
    async with AsyncExitStack() as stack:
        edge, private = EdgePing(row), EdgePing(row)
        mine, theirs = private_pair()
        tls, peer_id = mine.tls(), theirs.tls().me.member_id
        peer = await stack.enter_async_context(running("the echo peer", "scripts.benches.echo_peer"))
        ring, me = await stack.enter_async_context(echo_stage(NODE_ID, LAYERS, edge.on_rows))
        stage = echo_stage(tls.me.member_id, LAYERS, private.on_rows, tls)
        private_ring, private_me = await stack.enter_async_context(stage)
        edge.ring, private.ring = ring, private_ring
        asked: dict[str, object] = {
            "first": asdict(me),
            "private": {"first": asdict(private_me), "bundle": asdict(theirs)},
        }
        at = await peer.ask(asked, START_DEADLINE_S)
        await open_session(ring, LAYERS, Peer(node_id=PEER_ID, address=str(at["edge"])))
        await open_session(private_ring, LAYERS, Peer(node_id=peer_id, address=str(at["private"])))
        tcp = await stack.enter_async_context(TcpPing.dial(str(at["tcp"]), message))
        bare = await stack.enter_async_context(GrpcPing.dial(str(at["grpc"]), message))
        samples = await _measure({TCP: tcp, BARE_GRPC: bare, EDGE: edge, PRIVATE: private}, options.num_round_trips)
        await close_session(ring)
        await close_session(private_ring)
        await peer.stop()  # before this side's server, which would end the peer's link with a warning
    return _result(options, {name: Summary.of(found) for name, found in samples.items()}, len(message))


async def _measure(paths: Mapping[str, Ping], num_round_trips: int) -> dict[str, list[float]]:
    for name, ping in paths.items():
        await _block(name, ping, NUM_WARM_UP)
    samples: dict[str, list[float]] = {name: [] for name in paths}
    while min(map(len, samples.values())) < num_round_trips:
        for name, ping in paths.items():
            samples[name] += (await _block(name, ping, NUM_COLD + BLOCK))[NUM_COLD:]
    return samples


async def _block(name: str, ping: Ping, count: int) -> list[float]:
    try:
        async with asyncio.timeout(BLOCK_DEADLINE_S):
            return [await ping.round_trip() for _ in range(count)]
    except TimeoutError as e:
        raise DeadlineExceededError(f"{count} round trips over {name} took more than {BLOCK_DEADLINE_S:g} s") from e


def _result(options: Options, found: Mapping[str, Summary], num_bytes: int) -> Result:
    header = ("path", "median us", "p95 us", "ratio to TCP", "added us a hop")
    return Result(
        name="hop",
        title=f"round trip of a decode frame of {num_bytes} bytes (one row, hidden size {HIDDEN_SIZE}, bf16), loopback",
        command=f"scripts/bench hop --round-trips {options.num_round_trips}",
        table=Table(header=header, rows=tuple(_row(name, one, found[TCP]) for name, one in found.items())),
        notes=(
            *NOTES,
            f"{found[TCP].num_samples} round trips on each path; a round trip is two hops.",
        ),
        figures={**asdict(options), "num_bytes": num_bytes, "paths_s": {name: asdict(s) for name, s in found.items()}},
    )


def _row(name: str, one: Summary, tcp: Summary) -> tuple[str, ...]:
    added_s = (one.median - tcp.median) / 2
    return (
        name,
        f"{one.median * 1e6:.0f}",
        f"{one.p95 * 1e6:.0f}",
        f"{one.median / tcp.median:.1f}",
        "" if one is tcp else f"{added_s * 1e6:.0f}",
    )
