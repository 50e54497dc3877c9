"""Puts one node together: identity, device, engine, ring, edge server, membership."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import grpc.aio

from osai.core.addresses import reachable_host
from osai.core.admission.roles import Role
from osai.core.errors import OsaiError
from osai.core.gatekeeper import Gatekeeper
from osai.core.identity import Identity
from osai.core.library_logs import adopt_library_logs
from osai.core.member_tls import MemberTls
from osai.core.private_member import PrivateMember, join_private
from osai.core.rpc import EDGE_MAX_BYTES, WATCHFUL, make_server
from osai.core.standard_services import Health, add_standard_services
from osai.core.state import load_identity
from osai.node.config import NodeConfig
from osai.node.coordinators import host_of
from osai.node.device import Device, find_device
from osai.node.display import NodeDisplay
from osai.node.edge_port import EdgePort
from osai.node.edge_service import EdgeService
from osai.node.engine.options import EngineOptions
from osai.node.figures import Figures
from osai.node.hosting import Host
from osai.node.membership import SpanStatus
from osai.node.metered_engine import MeteredEngine
from osai.node.observing import Observing, observing
from osai.node.operator import read_operator
from osai.node.process import NodeProcess
from osai.node.record import NodeFacts
from osai.node.ring import Ring
from osai.node.stages.stage import Peer
from osai.node.weights.cache import open_cache
from osai.node.weights.service import ServeLimits, WeightsService
from osai.node.weights.spread import Spread
from osai.proto import edge_pb2, edge_pb2_grpc, weights_pb2, weights_pb2_grpc

log = logging.getLogger(__name__)

EDGE = edge_pb2.DESCRIPTOR.services_by_name["Edge"].full_name
WEIGHTS = weights_pb2.DESCRIPTOR.services_by_name["Weights"].full_name

SERVER_GRACE_S = 0.2  # for the last messages to be written when the node stops; peers keep their links open

OnReady = Callable[[NodeFacts, tuple[SpanStatus, ...]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a node has before anybody can speak with it."""

    config: NodeConfig
    identity: Identity
    device: Device
    member: PrivateMember | None
    facts: NodeFacts
    server: grpc.aio.Server
    port: EdgePort
    observed: Observing

    @property
    def tls(self) -> MemberTls | None:
        """In a private swarm."""
        return self.member.tls if self.member else None


async def run_node(config: NodeConfig, on_ready: OnReady, display: NodeDisplay) -> None:
    """Run a node until it leaves.

    Raises:
        OsaiError: why it could not start, join or go on.
    """
    adopt_library_logs()
    identity = load_identity(config.state_dir)
    device, operator = find_device(config.device), read_operator(config.operator_key, identity.node_id)
    member = await join_private(config.state_dir, identity, Role.NODE, address=config.address, token=config.token)
    tls = member.tls if member else None
    gatekeepers = [Gatekeeper(tls)] if tls else []
    server = make_server(max_message_bytes=EDGE_MAX_BYTES, pings=WATCHFUL, interceptors=gatekeepers)
    async with EdgePort.listening(server, config.listen, tls) as port:
        facts = replace(_facts(config, identity, device, port.port), is_private=member is not None, operator=operator)
        async with observing(config, identity.node_id, _say_metrics) as observed:
            node = Prepared(config=config, identity=identity, device=device, member=member, facts=facts,
                            server=server, port=port, observed=observed)  # fmt: skip
            await _serve(node, on_ready, display)


async def _serve(node: Prepared, on_ready: OnReady, display: NodeDisplay) -> None:
    failure: asyncio.Future[OsaiError] = asyncio.get_running_loop().create_future()
    ring, spread = _ring(node, failure), _spread(node)
    display.num_blames = lambda: spread.blames.num_blames
    ring.engine.start()
    async with ring:
        health = await _add_services(node, ring, spread)
        async with _running(node.server, ring), _following(display, partial(_figures, ring, node.observed)) as follow:

            async def serving(spans: tuple[SpanStatus, ...]) -> None:
                await health.set_serving(serving=True)
                on_ready(node.facts, spans)
                follow()

            host = Host(node.config, node.device, ring.engine, display, spread)
            process = NodeProcess(node.config, node.identity, node.facts, ring, host, serving, node.member)
            failure.add_done_callback(lambda done: None if done.cancelled() else process.fail(done.result()))
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, process.drain, f"received {number.name}")
            try:
                await process.run()
            finally:
                failure.cancel()


def _ring(node: Prepared, failure: "asyncio.Future[OsaiError]") -> Ring:
    """The node's stages and their engine; `failure` becomes what the engine fails with."""
    loop = asyncio.get_running_loop()
    options = EngineOptions(num_threads=node.config.num_threads)

    def engine_failed(error: OsaiError) -> None:
        if not failure.done():
            failure.set_result(error)

    return Ring(
        Peer(node_id=node.facts.node_id, address=node.facts.edge_address),
        lambda on_output: MeteredEngine(loop, on_output, engine_failed, options, meter=node.observed.meter),
        journal_bytes=node.config.journal_bytes,
        tls=node.tls,
        budgets=node.config.budgets,
        on_traffic=node.observed.on_traffic,
    )


async def _add_services(node: Prepared, ring: Ring, spread: Spread) -> Health:
    """All that others may call, and what the node is watched by."""
    edge = EdgeService(node.facts.node_id, ring, node.port, node.tls)
    edge_pb2_grpc.add_EdgeServicer_to_server(edge, node.server)
    bytes_a_second = node.config.serve_bytes_s
    weights = WeightsService(spread.stock, ServeLimits(bytes_a_second=bytes_a_second or 1))
    if bytes_a_second:
        weights_pb2_grpc.add_WeightsServicer_to_server(weights, node.server)
    node.observed.collect(ring.engine, lambda: ring.num_peers, lambda: weights.num_bytes)
    return await add_standard_services(node.server, [EDGE, WEIGHTS] if bytes_a_second else [EDGE])


@asynccontextmanager
async def _running(server: grpc.aio.Server, ring: Ring) -> AsyncIterator[None]:
    """Answer inside the context; afterwards the server stops, then the engine."""
    await server.start()
    try:
        yield
    finally:
        await server.stop(SERVER_GRACE_S)
        with contextlib.suppress(OsaiError):  # logged by the engine; the process ends anyway
            await ring.engine.stop()


@asynccontextmanager
async def _following(display: NodeDisplay, figures: Callable[[], Figures]) -> AsyncIterator[Callable[[], None]]:
    """Gives what lets the display follow the node until the end of the context."""
    tasks: list[asyncio.Task[None]] = []
    try:
        yield lambda: tasks.append(asyncio.create_task(display.follow(figures)))
    finally:
        for task in tasks:
            task.cancel()
        for failed in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(failed, Exception):
                log.error("the display failed", exc_info=failed)


def _figures(ring: Ring, observed: Observing) -> Figures:
    return Figures(num_sessions=ring.num_sessions, num_tokens=observed.meter.num_tokens, num_peers=ring.num_peers)


def _say_metrics(url: str) -> None:
    log.info("metrics are at %s", url)


def _spread(node: Prepared) -> Spread:
    cache = open_cache(node.config.cache_dir, node.config.cache_bytes)
    return Spread(node.facts.node_id, cache, node.tls, gives=node.config.serve_bytes_s > 0)


def _facts(config: NodeConfig, identity: Identity, device: Device, port: int) -> NodeFacts:
    announced = config.announce or reachable_host(config.listen.rpartition(":")[0], host_of(config.address))
    address = announced if announced.rpartition(":")[2].isdecimal() else f"{announced}:{port}"
    return NodeFacts(
        node_id=identity.node_id,
        edge_address=address,
        name=config.name,
        device=device.description,
        memory_bytes=config.memory_bytes,
        started_at_s=time.time(),
    )
