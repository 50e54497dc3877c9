"""The shell around rebalancing: looks at the swarm, lets the planner think in a thread, tells nodes what to host."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from osai.coordinator.catalog import Catalog
from osai.coordinator.control_service import ControlService
from osai.coordinator.placing.boards import Sizes
from osai.coordinator.placing.capacity import what_is_missing
from osai.coordinator.placing.rebalancing import Order, Rebalancer
from osai.coordinator.placing.registrar import Assignment, Registrar
from osai.coordinator.swarm import NodeState, Swarm
from osai.core.errors import OsaiError

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between looks: what is wrong is seen this late


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known of the world besides the nodes.

    Attributes:
        rank: of this coordinator among those that live, by id.
        demand: on each model.
    """

    rank: Callable[[], int]
    demand: Callable[[], Mapping[str, float]]


class Balancer:
    """Moves the nodes whose control streams are held here, when the planner says so."""

    def __init__(self, catalog: Catalog, swarm: Swarm, registrar: Registrar, outlook: Outlook) -> None:
        self._catalog = catalog
        self._swarm = swarm
        self._registrar = registrar
        self._outlook = outlook
        self._sizes = Sizes(catalog.models)
        self._rebalancer = Rebalancer(catalog.models)
        self._seen: tuple[tuple[str, str, int, tuple[str, ...]], ...] | None = None
        self.missing: dict[str, str] = {}

    def assigned(self, node_id: str, assignment: Assignment) -> None:
        """A node was given layers when it joined."""
        self._rebalancer.joined(node_id, assignment.model.model_id, assignment.layers, time.monotonic())

    async def run(self, control: ControlService) -> None:
        """Look and act until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._act(control)
            except Exception:
                log.exception("the swarm could not be rebalanced")

    async def _act(self, control: ControlService) -> None:
        nodes, members, demand = self._swarm.nodes, dict(self._registrar.members), self._outlook.demand()
        await self._note_missing(nodes)
        rebalancer = self._rebalancer
        boards = rebalancer.boards(nodes, members, time.monotonic())
        await self._tell(control, rebalancer.recalled(nodes, members))  # before anything that takes long
        proposed = await asyncio.to_thread(rebalancer.proposals, boards, nodes, members, demand)
        await self._tell(control, rebalancer.allowed(proposed, rank=self._outlook.rank(), now_s=time.monotonic()))

    async def _tell(self, control: ControlService, orders: Sequence[Order]) -> None:
        for order in orders:
            log.info("node %s is moved (%s): layers %s of %s", order.node_id, order.why, order.layers, order.model_id)
            try:
                assignment = self._registrar.ordered(order.node_id, order.model_id, order.layers)
                await control.tell(order.node_id, assignment, replace=order.replace, urgent=order.urgent)
            except OsaiError as e:
                log.warning("node %s was not told: %s", order.node_id, e)

    async def _note_missing(self, nodes: tuple[NodeState, ...]) -> None:
        """What each model lacks, where the nodes present could not hold it; logged once."""
        seen = tuple(
            (node.node_id, node.state, node.memory_bytes, tuple(span.dtype for span in node.spans)) for node in nodes
        )
        if seen == self._seen:
            return
        self._seen = seen
        for model in self._catalog.models:
            text = await asyncio.to_thread(what_is_missing, model, nodes, self._sizes)
            if text and nodes and not self.missing.get(model.model_id):
                log.warning("no set of the nodes present can hold %s: %s", model.model_id, text)
            self.missing[model.model_id] = text
