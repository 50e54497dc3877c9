"""Puts one node together: identity, device, engine, ring, edge server, membership."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import replace

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
from osai.core.standard_services import add_standard_services
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
            await _serve(config, identity, facts, device, server, port, member, on_ready, display, observed)


async def _serve(
    config: NodeConfig,
    identity: Identity,
    facts: NodeFacts,
    device: Device,
    server: grpc.aio.Server,
    port: EdgePort,
    member: PrivateMember | None,
    on_ready: OnReady,
    display: NodeDisplay,
    observed: Observing,
) -> None:
    loop = asyncio.get_running_loop()
    failure: asyncio.Future[OsaiError] = loop.create_future()
    options = EngineOptions(num_threads=config.num_threads)

    def engine_failed(error: OsaiError) -> None:
        if not failure.done():
            failure.set_result(error)

    ring = Ring(
        Peer(node_id=facts.node_id, address=facts.edge_address),
        lambda on_output: MeteredEngine(loop, on_output, engine_failed, options, meter=observed.meter),
        journal_bytes=config.journal_bytes,
        tls=member.tls if member else None,
        budgets=config.budgets,
        on_traffic=observed.on_traffic,
    )
    ring.engine.start()
    async with ring:
        edge_pb2_grpc.add_EdgeServicer_to_server(
            EdgeService(facts.node_id, ring, port, member.tls if member else None), server
        )
        spread, services = _spread(config, facts.node_id, member.tls if member else None), [EDGE]
        display.num_blames = lambda: spread.blames.num_blames
        weights = WeightsService(spread.stock, ServeLimits(bytes_a_second=config.serve_bytes_s or 1))
        if config.serve_bytes_s:
            weights_pb2_grpc.add_WeightsServicer_to_server(weights, server)
            services.append(WEIGHTS)
        observed.collect(ring.engine, lambda: ring.num_peers, lambda: weights.num_bytes)
        health = await add_standard_services(server, services)
        await server.start()

        def figures() -> Figures:
            return _figures(ring, observed)

        async def serving(spans: tuple[SpanStatus, ...]) -> None:
            await health.set_serving(serving=True)
            on_ready(facts, spans)
            following.append(loop.create_task(display.follow(figures)))

        following: list[asyncio.Task[None]] = []
        host = Host(config, device, ring.engine, display, spread)
        process = NodeProcess(config, identity, facts, ring, host, serving, member)
        failure.add_done_callback(lambda done: None if done.cancelled() else process.fail(done.result()))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, process.drain, f"received {number.name}")
        try:
            await process.run()
        finally:
            failure.cancel()
            for each in following:
                each.cancel()
            for failed in await asyncio.gather(*following, return_exceptions=True):
                if isinstance(failed, Exception):
                    log.error("the display failed", exc_info=failed)
            await server.stop(SERVER_GRACE_S)
            with contextlib.suppress(OsaiError):  # logged by the engine; the process ends anyway
                await ring.engine.stop()


def _figures(ring: Ring, observed: Observing) -> Figures:
    return Figures(num_sessions=ring.num_sessions, num_tokens=observed.meter.num_tokens, num_peers=ring.num_peers)


def _say_metrics(url: str) -> None:
    log.info("metrics are at %s", url)


def _spread(config: NodeConfig, node_id: str, tls: MemberTls | None) -> Spread:
    return Spread(node_id, open_cache(config.cache_dir, config.cache_bytes), tls, gives=config.serve_bytes_s > 0)


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
