"""Puts one coordinator together: catalog, directory, swarm view, services."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from osai.coordinator.api import Generations, SwarmView
from osai.coordinator.catalog import Catalog, load_model
from osai.coordinator.client_service import ClientService
from osai.coordinator.config import CoordinatorConfig
from osai.coordinator.control_service import ControlService
from osai.coordinator.discovery import Discovery
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metering import MeteredGenerations
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer
from osai.coordinator.generations import SwarmGenerations
from osai.coordinator.health.public_page import PublicPage
from osai.coordinator.history.keeper import HISTORY_FILE, History
from osai.coordinator.history.recorded import RecordedGenerations
from osai.coordinator.history.recorder import Recorder
from osai.coordinator.keys.store import KeysFile, KeyWatch
from osai.coordinator.listening import listening
from osai.coordinator.placing.balancing import Balancer, Outlook
from osai.coordinator.placing.demand import CountedGenerations, Demand
from osai.coordinator.placing.registrar import Registrar
from osai.coordinator.private.place import PrivatePlace, find_place
from osai.coordinator.roster import Roster
from osai.coordinator.sessions.config import SupervisionConfig
from osai.coordinator.swarm import Swarm
from osai.coordinator.tracing.incoming import TraceParent
from osai.coordinator.tracing.traced import TracedGenerations
from osai.coordinator.view import view_models, view_node
from osai.core.addresses import reachable_host
from osai.core.directory import Directory
from osai.core.identity import Identity
from osai.core.library_logs import adopt_library_logs
from osai.core.protocol import PROTOCOL_VERSION, software
from osai.core.standard_services import add_standard_services
from osai.core.state import LIBP2P_KEY_FILE, load_identity
from osai.core.tracing.exporting import OtelTracer, check_url, open_tracer
from osai.proto import client_pb2, client_pb2_grpc, control_pb2, control_pb2_grpc, record_pb2

SETTLE_S = 6.0  # nodes that had lost a coordinator dial in again within 2 s; the DHT knows the others after one look
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
    config.check()
    if config.traces:
        check_url(config.traces)
    adopt_library_logs()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    identity = load_identity(config.state_dir)
    place = await find_place(config, identity)
    catalog = Catalog(
        [
            load_model(
                model.folder,
                model.manifest,
                config.trust,
                allow_unsigned=config.allow_unsigned,
                state_dir=config.state_dir,
            )
            for model in config.models
        ]
    )
    directory = await Directory.start(
        identity,
        listen=config.dht_listen,
        initial_peers=config.dht_peers,
        key_file=config.state_dir / LIBP2P_KEY_FILE,
        tls=place.tls if place else None,
    )
    try:
        # after the DHT has forked: there are threads from here on
        with open_tracer(config.traces, "osai-coordinator", identity.node_id) if config.traces else nullcontext() as it:
            coordinator = CoordinatorProcess(config, identity, catalog, directory, place, it)
            async with coordinator.serving(on_ready):
                await stopped.wait()
    finally:
        await directory.stop()


class CoordinatorProcess:
    """One coordinator: what it knows, and the servers and loops around it."""

    def __init__(
        self,
        config: CoordinatorConfig,
        identity: Identity,
        catalog: Catalog,
        directory: Directory,
        place: PrivatePlace | None = None,
        tracer: OtelTracer | None = None,
    ) -> None:
        self._config = config
        self._tracer = tracer
        self._place = place
        self._keys = KeyWatch(KeysFile(config.keys_file)) if config.keys_file else None
        self._identity = identity
        self._catalog = catalog
        self._directory = directory
        self._swarm = Swarm()
        self._roster = Roster(identity.node_id)
        self._discovery = Discovery(directory, self._swarm, self._roster)
        self._demand = Demand()
        self._registrar = Registrar(catalog, self._swarm)
        outlook = Outlook(rank=lambda: self._roster.rank, demand=lambda: self._demand.by_model(time.monotonic()))
        self._balancer = Balancer(catalog, self._swarm, self._registrar, outlook)
        self._addresses = Addresses(coordinator_id=identity.node_id, grpc="", http="", dht=directory.addresses)
        self._generations = SwarmGenerations(
            identity.node_id,
            catalog,
            self._swarm,
            self._view,
            SupervisionConfig(coverage_wait_s=config.coverage_wait_s, settle_s=SETTLE_S),
            config.queue,
            standby=config.standby,
            tls=place.tls if place else None,
        )

    @asynccontextmanager
    async def serving(self, on_ready: OnReady) -> AsyncIterator[None]:
        """Serve inside the context."""
        metrics, recorder = Metrics(CollectorRegistry()), Recorder()
        recorded = self._recorded(recorder)
        history = History(recorder, self._view, self._config.state_dir / HISTORY_FILE, time.time)
        http = self._http_server(recorded, metrics, history)
        control = ControlService(
            self._identity.node_id,
            self._swarm,
            self._registrar,
            self._directory.addresses,
            self._balancer.assigned,
            self._generations.swarm_changed,
            self._place,
        )
        metered = MeteredGenerations(recorded, metrics=metrics, api="grpc", clock=time.monotonic)
        listen, add_services = self._config.listen, partial(self._add_services, metered, control)
        async with (
            listening(listen, self._place, add_services) as (server, grpc_port),
            self._generations.links,
            http,
            asyncio.TaskGroup() as tasks,
        ):
            health = await add_standard_services(server, _SERVICES)
            self._addresses = replace(
                self._addresses,
                grpc=self._reachable(self._config.listen, grpc_port),
                http=http.url.partition("//")[0] + "//" + self._reachable(self._config.http_listen, http.address[1]),
            )
            await server.start()
            loops = [tasks.create_task(each) for each in (history.run(), *self._loops(control))]
            await health.set_serving(serving=True)
            on_ready(self._addresses)
            try:
                yield
            finally:
                self._generations.leave()
                await server.stop(SERVER_GRACE_S)
                for loop in loops:
                    loop.cancel()

    def _recorded(self, recorder: Recorder) -> Generations:
        """Generations with all that is noted of them on the way."""
        counted = CountedGenerations(self._generations, self._demand, time.monotonic)
        recorded = RecordedGenerations(counted, recorder, time.monotonic)
        if self._tracer is None:
            return recorded
        return TracedGenerations(recorded, self._tracer, time.time, secrets.randbits)

    def _http_server(self, generations: Generations, metrics: Metrics, history: History) -> HttpServer:
        """The gateway and the health page."""
        page = PublicPage(self._view, num_recoveries=metrics.num_recoveries, history=history)
        app = create_app(generations, metrics=metrics, keyring=self._keys.keyring if self._keys else None, page=page)
        if self._tracer is not None:
            app.add_middleware(TraceParent)
        host, _, port = self._config.http_listen.rpartition(":")
        return HttpServer(app, host=host.strip("[]"), port=int(port), tls=self._config.http_tls, on_stop=page.close)

    def _loops(self, control: ControlService) -> Iterator[Coroutine[Any, Any, None]]:
        """What goes on as long as the coordinator serves."""
        yield self._discovery.announcing(self._record())
        yield self._discovery.looking()
        yield self._balancer.run(control)
        if self._place:
            yield self._place.run(control.tell_revocations)
        if self._keys:
            yield self._keys.run()

    def _add_services(self, generations: Generations, control: ControlService, server: grpc.aio.Server) -> None:
        control_pb2_grpc.add_ControlServicer_to_server(control, server)
        keyring = self._keys.keyring if self._keys else None
        client = ClientService(self._identity.node_id, generations, lambda: secrets.randbits(63), keyring)
        client_pb2_grpc.add_CoordinatorServicer_to_server(client, server)

    def _reachable(self, listen: str, port: int) -> str:
        return f"{self._config.announce or reachable_host(listen.rpartition(':')[0])}:{port}"

    def _record(self) -> record_pb2.CoordinatorRecord:
        return record_pb2.CoordinatorRecord(
            coordinator_id=self._identity.node_id,
            grpc_address=self._addresses.grpc,
            http_address=self._addresses.http,
            software=software(),
            protocol_version=PROTOCOL_VERSION,
        )

    def _view(self) -> SwarmView:
        nodes = self._swarm.nodes
        return SwarmView(
            coordinator_id=self._identity.node_id,
            software=software(),
            http_address=self._addresses.http,
            dht_addresses=self._addresses.dht,
            models=tuple(
                replace(model, missing=self._balancer.missing.get(model.model_id, ""))
                for model in view_models(self._catalog.models, nodes, self._generations.num_queued)
            ),
            nodes=tuple(view_node(node, time.time()) for node in nodes),
            coordinators=self._roster.addresses(self._addresses.grpc),
            private=self._place is not None,
        )
