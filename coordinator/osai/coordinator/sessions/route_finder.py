"""Finds pipelines and standbys for one session, as the swarm is now."""

import time
from collections.abc import Callable, Iterable, Mapping

from osai.coordinator.api import StageView
from osai.coordinator.catalog import ServedModel
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.routes.routing import RouteWish, find_pipeline, find_standby
from osai.coordinator.sessions.actions import Detour, FindPipeline, FindStandby, Found
from osai.coordinator.swarm import Swarm
from osai.coordinator.swarm_state import NodeState
from osai.core.errors import NotCoveredError

RESUME_VERSION = 2  # of the protocol: nodes of it go on with sessions in later epochs
ANY_VERSION = 1
TAIL_VERSION = 4  # tails of it know grammars, logit_bias and pooling: older ones would leave them out in silence

Pipeline = tuple[StageView, ...]


class RouteFinder:
    """What one session may run on.

    Args:
        model: of the session.
        plan: what is generated.
        swarm: as this coordinator sees it.
        sessions: gives the number of this coordinator's sessions on each node.
    """

    def __init__(
        self, model: ServedModel, plan: GenerationPlan, swarm: Swarm, sessions: Callable[[], Mapping[str, int]]
    ) -> None:
        self._model = model
        self._plan = plan
        self._swarm = swarm
        self._sessions = sessions
        # what needs to know which tokens were generated: older nodes take them all for the prompt's
        self._versions = (RESUME_VERSION,) if plan.needs_history else (RESUME_VERSION, ANY_VERSION)
        self._tail_version = TAIL_VERSION if plan.needs_new_tail else ANY_VERSION

    def first(self, avoid: Iterable[str]) -> Pipeline | None:
        """The pipeline of a new session, of any nodes; None where there is no way around those to avoid.

        Raises:
            NotCoveredError: if there is no pipeline at all.
        """
        detour = Detour(avoid=frozenset(avoid))
        if not self._plan.needs_history:
            return self._find(detour, ANY_VERSION)
        try:
            return self._find(detour, RESUME_VERSION)
        except NotCoveredError:  # then a lost node ends the session
            return self._find(detour, ANY_VERSION)

    def find(self, action: FindPipeline) -> Found | NotCoveredError | None:
        """A pipeline for a session that goes on, of nodes that can keep what they have if there is such a one."""
        gap: NotCoveredError | None = None
        for version in self._versions:
            try:
                pipeline = self._find(action.detour, version)
            except NotCoveredError as e:
                gap = e
            else:
                gap = None
                if pipeline is not None:
                    return Found(pipeline=pipeline, resumable=self._is_resumable(pipeline))
        return gap

    def standby(self, action: FindStandby) -> StageView | None:
        """A node to follow a stage; none where the stage before can't push to two."""
        before = [key for key, span in action.detour.kept.items() if span.end == action.stage.span.start]
        if any(self._version(node_id) < RESUME_VERSION for node_id in before):
            return None
        return find_standby(self._swarm.nodes, self._model, action.stage, self._wish(action.detour, RESUME_VERSION))

    def _find(self, detour: Detour, min_version: int) -> Pipeline | None:
        return find_pipeline(self._swarm.nodes, self._model, self._wish(detour, min_version))

    def _wish(self, detour: Detour, min_version: int) -> RouteWish:
        return RouteWish(
            num_tokens=self._plan.max_total_tokens,
            sessions=self._sessions(),
            avoid=detour.avoid,
            avoid_edges=detour.avoid_edges,
            kept=detour.kept,
            suspects=detour.suspects | self._swarm.suspects(time.monotonic()),
            min_version=min_version,
            tail_version=self._tail_version,
            operators=self._plan.operators,
        )

    def _is_resumable(self, pipeline: Pipeline) -> bool:
        return all(self._version(stage.node_id) >= RESUME_VERSION for stage in pipeline)

    def _version(self, node_id: str) -> int:
        node = self._swarm.get(node_id)
        return node.protocol_version if node else ANY_VERSION


def draining(nodes: Iterable[NodeState], model_id: str) -> frozenset[str]:
    """Ids of nodes that are about to give up their span of a model."""
    return frozenset(
        node.node_id
        for node in nodes
        for span in node.spans
        if span.model_id == model_id and "draining" in (node.state, span.state)
    )
