"""A simulated coordinator: production's own session and balancing shells over simulated edges, DHT and time."""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from scripts.simulation.client_calls import CLIENT, ClientServer
from scripts.simulation.control import ControlServer
from scripts.simulation.edge import address_of
from scripts.simulation.hosts import Host
from scripts.simulation.model import MODEL
from scripts.simulation.surroundings import Surroundings

from osai.coordinator.api import ModelView, SwarmView
from osai.coordinator.catalog import Catalog
from osai.coordinator.client_service import ClientService
from osai.coordinator.control_service import ControlService
from osai.coordinator.discovery import ANNOUNCE_INTERVAL_S, LOOK_INTERVAL_S, RECORD_TTL_S
from osai.coordinator.generations import SwarmGenerations
from osai.coordinator.placing.balancing import Balancer, Outlook
from osai.coordinator.placing.registrar import Registrar
from osai.coordinator.run import SETTLE_S
from osai.coordinator.sessions.config import SupervisionConfig
from osai.coordinator.swarm import Swarm


class SimulatedCoordinator:
    """One process of a coordinator, from its start until it is killed.

    Args:
        host: the process.
        around: network, DHT, model.
        dice: draws seeds.
        standby: sessions keep standbys.
    """

    def __init__(self, host: Host, around: Surroundings, dice: Random, *, standby: bool) -> None:
        self.host = host
        self._around = around
        self.swarm = Swarm()
        self._others: dict[str, str] = {}
        catalog = Catalog([around.model.served])
        registrar = Registrar(catalog, self.swarm)
        outlook = Outlook(rank=lambda: sum(key < host.id for key in self._others), demand=dict)
        self._balancer = Balancer(catalog, self.swarm, registrar, outlook)
        config = SupervisionConfig(settle_s=SETTLE_S)
        self.generations = SwarmGenerations(host.id, catalog, self.swarm, self._view, config, standby=standby)
        self._control = ControlServer(
            host, around.network, self.swarm, registrar, self._balancer.assigned, around.trace
        )
        service = ClientService(host.id, self.generations, lambda: dice.getrandbits(63))
        self._clients = ClientServer(service, self._start)
        around.network.listen(host, CLIENT, self._clients.accept)
        self._tasks: set[asyncio.Task[None]] = set()
        self._start(self._run())

    def kill(self) -> None:
        """SIGKILL: nothing that it does from now on reaches anybody."""
        self._around.network.kill(self.host, with_power=True)
        for task in self._tasks:
            task.cancel()

    async def _run(self) -> None:
        async with self.generations.links:
            control: Any = self._control  # all that the balancer asks of it is `tell`
            balancing: Coroutine[Any, Any, None] = self._balancer.run(_as_control(control))
            await asyncio.gather(self._announcing(), self._looking(), balancing)

    async def _announcing(self) -> None:
        while True:
            self._around.coordinators.announce(self.host, address_of(self.host.id), RECORD_TTL_S)
            await asyncio.sleep(ANNOUNCE_INTERVAL_S)

    async def _looking(self) -> None:
        while True:
            now_s = self.host.now_s()
            self._others = self._around.coordinators.read(self.host)
            for record in self._around.nodes.read(self.host).values():
                self.swarm.found(record.state, now_s)
            self.swarm.expire(now_s)
            await asyncio.sleep(LOOK_INTERVAL_S)

    def _start(self, coro: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._around.loop.create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.host.alive:
            self._around.loop.errors.append(error)

    def _view(self) -> SwarmView:
        """What ClientService needs of it: the whole view takes too long to be made for every session."""
        facts = self._around.model.served.facts
        model = ModelView(
            model_id=MODEL,
            num_layers=facts.num_layers,
            max_context=facts.max_context,
            signed=True,
            licence="",
            replicas=(),
        )
        me = address_of(self.host.id)
        others = tuple(at for _, at in sorted(self._others.items()) if at != me)
        return SwarmView(
            coordinator_id=self.host.id,
            software="",
            http_address="",
            dht_addresses=(),
            models=(model,),
            nodes=(),
            coordinators=(me, *others),
        )


def _as_control(control: Any) -> ControlService:  # noqa: ANN401 - it only tells
    known: ControlService = control
    return known
