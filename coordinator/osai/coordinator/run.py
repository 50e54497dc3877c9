"""Puts one coordinator together: catalog, directory, swarm view, services."""

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from osai.coordinator.api import Generations, SwarmView
from osai.coordinator.catalog import Catalog, load_model
from osai.coordinator.client_service import ClientService
from osai.coordinator.config import CoordinatorConfig
from osai.coordinator.control_service import ControlService
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metering import MeteredGenerations
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer
from osai.coordinator.generations import SwarmGenerations
from osai.coordinator.registrar import Registrar
from osai.coordinator.swarm import Swarm
from osai.coordinator.view import view_models, view_node
from osai.coordinator.wire import read_node
from osai.core.addresses import reachable_host
from osai.core.directory import Directory
from osai.core.errors import OsaiError
from osai.core.identity import Identity
from osai.core.protocol import PROTOCOL_VERSION, software
from osai.core.records import COORDINATORS_KEY, NODES_KEY
from osai.core.rpc import bind, make_server
from osai.core.standard_services import add_standard_services
from osai.core.state import LIBP2P_KEY_FILE, load_identity
from osai.proto import client_pb2, client_pb2_grpc, control_pb2, control_pb2_grpc, record_pb2

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 2.0  # between looks into the DHT: nodes that another coordinator holds show up this late
ANNOUNCE_INTERVAL_S = 10.0  # a third of the record's life, so that two may be lost
RECORD_TTL_S = 30.0
SERVER_GRACE_S = 0.2  # for running calls to be told; nodes keep their streams open

_SERVICES = (
    client_pb2.DESCRIPTOR.services_by_name["Coordinator"].full_name,
    control_pb2.DESCRIPTOR.services_by_name["Control"].full_name,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a coordinator can be reached."""

    coordinator_id: str
    grpc: str
    http: str
    dht: tuple[str, ...]


OnReady = Callable[[Addresses], None]


async def run_coordinator(config: CoordinatorConfig, on_ready: OnReady) -> None:
    """Run a coordinator until SIGTERM or SIGINT.

    Raises:
        OsaiError: why it could not start.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    identity = load_identity(config.state_dir)
    catalog = Catalog(
        [
            load_model(model.folder, model.manifest, config.trust, allow_unsigned=config.allow_unsigned)
            for model in config.models
        ]
    )
    directory = await Directory.start(
        identity,
        listen=config.dht_listen,
        initial_peers=config.dht_peers,
        key_file=config.state_dir / LIBP2P_KEY_FILE,
    )
    try:
        coordinator = CoordinatorProcess(config, identity, catalog, directory)
        async with coordinator.serving(on_ready):
            await stopped.wait()
    finally:
        await directory.stop()


class CoordinatorProcess:
    """One coordinator: what it knows, and the servers and loops around it."""

    def __init__(self, config: CoordinatorConfig, identity: Identity, catalog: Catalog, directory: Directory) -> None:
        self._config = config
        self._identity = identity
        self._catalog = catalog
        self._directory = directory
        self._swarm = Swarm()
        self._addresses = Addresses(coordinator_id=identity.node_id, grpc="", http="", dht=directory.addresses)
        self._generations = SwarmGenerations(identity.node_id, catalog, self._swarm, self._view, queue=config.queue)

    @asynccontextmanager
    async def serving(self, on_ready: OnReady) -> AsyncIterator[None]:
        """Serve inside the context."""
        metrics = Metrics(CollectorRegistry())
        app = create_app(self._generations, metrics=metrics)
        host, _, port = self._config.http_listen.rpartition(":")
        http = HttpServer(app, host=host.strip("[]"), port=int(port))
        server, grpc_port = self._grpc_server(MeteredGenerations(
            self._generations, metrics=metrics, api="grpc", clock=time.monotonic
        ))  # fmt: skip
        health = await add_standard_services(server, _SERVICES)
        async with self._generations.links, http, asyncio.TaskGroup() as tasks:
            self._addresses = replace(
                self._addresses,
                grpc=self._reachable(self._config.listen, grpc_port),
                http="http://" + self._reachable(self._config.http_listen, http.address[1]),
            )
            await server.start()
            loops = [tasks.create_task(self._announcing()), tasks.create_task(self._looking())]
            await health.set_serving(serving=True)
            on_ready(self._addresses)
            try:
                yield
            finally:
                await server.stop(SERVER_GRACE_S)
                for loop in loops:
                    loop.cancel()

    def _grpc_server(self, generations: Generations) -> tuple[grpc.aio.Server, int]:
        server = make_server()
        port = bind(server, self._config.listen)
        me = self._identity.node_id
        registrar = Registrar(self._catalog, self._swarm)
        control = ControlService(me, self._swarm, registrar, self._directory.addresses)
        control_pb2_grpc.add_ControlServicer_to_server(control, server)
        client = ClientService(me, generations, lambda: secrets.randbits(63))
        client_pb2_grpc.add_CoordinatorServicer_to_server(client, server)
        return server, port

    def _reachable(self, listen: str, port: int) -> str:
        return f"{self._config.announce or reachable_host(listen.rpartition(':')[0])}:{port}"

    async def _announcing(self) -> None:
        while True:
            record = record_pb2.CoordinatorRecord(
                coordinator_id=self._identity.node_id,
                grpc_address=self._addresses.grpc,
                http_address=self._addresses.http,
                software=software(),
                protocol_version=PROTOCOL_VERSION,
            )
            try:
                await self._directory.announce(COORDINATORS_KEY, record.SerializeToString(), ttl_s=RECORD_TTL_S)
            except OsaiError as e:
                log.warning("not announced: %s", e)
            await asyncio.sleep(ANNOUNCE_INTERVAL_S)

    async def _looking(self) -> None:
        """Learn of nodes from the DHT: those whose control streams other coordinators hold."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                payloads = await self._directory.read(NODES_KEY)
            except OsaiError as e:
                log.warning("the DHT can't be read: %s", e)
                continue
            for node_id, payload in payloads.items():
                self._found(node_id, payload)
            self._swarm.expire(time.monotonic())

    def _found(self, node_id: str, payload: bytes) -> None:
        try:
            node = read_node(record_pb2.NodeRecord.FromString(payload))
        except (OsaiError, DecodeError) as e:
            log.warning("dropped the DHT record of %s: %s", node_id, e)
            return
        if node.node_id == node_id:
            self._swarm.found(node, time.monotonic())

    def _view(self) -> SwarmView:
        nodes = self._swarm.nodes
        return SwarmView(
            coordinator_id=self._identity.node_id,
            software=software(),
            http_address=self._addresses.http,
            dht_addresses=self._addresses.dht,
            models=view_models(self._catalog.models, nodes, self._generations.num_queued),
            nodes=tuple(view_node(node, time.time()) for node in nodes),
        )
