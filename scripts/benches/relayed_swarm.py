"""A local swarm, coordinator and nodes as in `osai up`, but for a relay in front of each node's edge."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.benches.program import running
from scripts.benches.relay import Relay, free_port

from osai.client import AsyncClient
from osai.client.up.checkpoint import open_checkpoint
from osai.client.up.members import wait_for_members
from osai.client.up.plan import LOOPBACK, SwarmPlan, coordinator_arguments, even_spans, node_arguments, node_name

START_DEADLINE_S = 180.0
MEMORY_BYTES = 3 * 2**30  # of each node: several run side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedSwarm:
    """A swarm that serves.

    Attributes:
        client: of its coordinator; no relay lies between.
        relays: in front of each stage's edge, from the head on: from its predecessor and from the coordinator.
    """

    client: AsyncClient
    relays: tuple[Relay, ...]

    def delay(self, delay_s: float) -> None:
        """Let every relay delay so long from now on."""
        for relay in self.relays:
            relay.delay_s = delay_s


@asynccontextmanager
async def relayed_swarm(folder: Path, *, num_stages: int, dtype: str, num_threads: int) -> AsyncIterator[RelayedSwarm]:
    """Run a swarm with even spans of the checkpoint, one process a stage."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osai-bench-")))
        plan = await asyncio.to_thread(_plan, folder, scratch, num_stages, dtype, num_threads)
        arguments = coordinator_arguments(plan, scratch / "coordinator")
        coordinator = await stack.enter_async_context(running("the coordinator", "osai.coordinator", *arguments))
        address = str((await coordinator.answer(START_DEADLINE_S))["grpc"])
        ports = [free_port() for _ in plan.spans]
        relays = [Relay(f"{LOOPBACK}:{port}") for port in ports]
        announced = [await stack.enter_async_context(relay.laid()) for relay in relays]
        await _start_nodes(stack, plan, address, list(zip(ports, announced, strict=True)), scratch)
        client = await stack.enter_async_context(AsyncClient(address))
        yield RelayedSwarm(client=client, relays=tuple(relays))


def _plan(folder: Path, scratch: Path, num_stages: int, dtype: str, num_threads: int) -> SwarmPlan:
    checkpoint = open_checkpoint(folder, None, scratch)
    return SwarmPlan(
        model_id=checkpoint.model_id,
        checkpoint=checkpoint.folder,
        manifest=checkpoint.manifest,
        trust=checkpoint.trust,
        spans=even_spans(checkpoint.num_layers, num_stages),
        dtype=dtype,
        threads_per_node=num_threads,
        memory_per_node=MEMORY_BYTES,
    )


async def _start_nodes(
    stack: AsyncExitStack, plan: SwarmPlan, coordinator: str, edges: Sequence[tuple[int, str]], scratch: Path
) -> None:
    """Start every node, and wait until the coordinator sees that all of them serve.

    `edges` are, by node, the port that it listens on, and the address under which it is known.
    """
    nodes = []
    for i, (port, announced) in enumerate(edges):
        arguments = node_arguments(plan, i, coordinator, scratch / node_name(i))
        arguments += ["--listen", f"{LOOPBACK}:{port}", "--announce", announced]  # the later of two counts
        nodes.append(await stack.enter_async_context(running(node_name(i), "osai.node", *arguments)))
    ready = [await node.answer(START_DEADLINE_S) for node in nodes]
    async with asyncio.timeout(START_DEADLINE_S):
        await wait_for_members(coordinator, [str(node["id"]) for node in ready])
