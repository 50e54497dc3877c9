"""What a session does while all is well: gives its stages followers, and leaves nodes that are slow or about to go.

Pure.
"""

from dataclasses import replace
from math import inf

from osai.coordinator.api import StageView
from osai.coordinator.sessions.actions import Action, FindPipeline, FindStandby
from osai.coordinator.sessions.config import SupervisionConfig
from osai.coordinator.sessions.detours import Detours
from osai.coordinator.sessions.epochs import Epochs
from osai.coordinator.sessions.setbacks import NOBODY


class Moves:
    """What one session knows of its nodes besides whether they run.

    Args:
        config: how often to look.
        epochs: the session's.
        detours: whom it has had bad luck with.
        with_standbys: every stage is to have a follower; else only those whose nodes are about to leave.
    """

    def __init__(self, config: SupervisionConfig, epochs: Epochs, detours: Detours, *, with_standbys: bool) -> None:
        self._config = config
        self._epochs = epochs
        self._detours = detours
        self._with_standbys = with_standbys
        self._slow = self._leaving = NOBODY
        self._moved_s = -inf
        self._asked_s = -inf

    @property
    def due_s(self) -> float:
        """When stages without followers are looked at again; infinite where none is wanted."""
        return self._asked_s + self._config.standby_retry_s if self._with_standbys and self._asked_s > -inf else inf

    @property
    def reason(self) -> str:
        """Why a better pipeline is looked for, for people."""
        leaving = [f"node {node_id} is about to leave" for node_id in sorted(self._leaving)]
        return "; ".join(leaving + [f"node {node_id} is slow or stuck" for node_id in sorted(self._slow)])

    def look(self, now_s: float, *, avoid: frozenset[str] = NOBODY, suspects: frozenset[str] = NOBODY) -> list[Action]:
        """Look for a pipeline; followers that get every row hold the session's KV, or soon will."""
        detour = self._detours.now(now_s, avoid=avoid, suspects=suspects)
        followers = {view.node_id: view.span for view in self._epochs.standbys.ready}
        return [FindPipeline(detour=replace(detour, kept={**detour.kept, **followers}))]

    def watched(self, slow: frozenset[str], leaving: frozenset[str], now_s: float) -> list[Action]:
        """Which nodes of the running pipeline are slow or stuck, and which are about to leave."""
        self._slow, self._leaving = slow, leaving
        if self._is_followed() or (slow and self._may_move(now_s)):
            return self.look(now_s, avoid=leaving, suspects=slow)
        return self.find_standbys(now_s)

    def is_better(self, pipeline: tuple[StageView, ...]) -> bool:
        """Whether a pipeline is worth a move from one that runs."""
        return self._num_unwanted(pipeline) < self._num_unwanted(self._epochs.pipeline)

    def find_standbys(self, now_s: float) -> list[Action]:
        """Look for followers where one is wanted, now and then."""
        pipeline = self._epochs.pipeline
        wanted = [i for i, stage in enumerate(pipeline) if self._with_standbys or stage.node_id in self._leaving]
        if not wanted or now_s < self._asked_s + self._config.standby_retry_s:
            return []
        self._asked_s = now_s
        detour = self._detours.now(now_s, avoid=self._epochs.nodes)
        return [FindStandby(stage=pipeline[index], detour=detour) for index in self._epochs.standbys.missing(wanted)]

    def standby_found(self, stage: StageView, view: StageView | None, now_s: float) -> list[Action]:
        """The answer; a node that is about to leave is left without a follower too, which only takes longer."""
        if view is not None and view.node_id not in self._epochs.nodes:
            return self._epochs.follow(view, stage)
        if stage.node_id in self._leaving and self._may_move(now_s):
            return self.look(now_s, avoid=self._leaving, suspects=self._slow)
        return []

    def _is_followed(self) -> bool:
        """Whether a follower may take the place of a node that is about to leave."""
        position = self._epochs.num_known_tokens - self._config.handover_rows
        return any(
            stage.node_id in self._leaving and self._epochs.standbys.has_caught_up(index, position)
            for index, stage in enumerate(self._epochs.pipeline)
        )

    def _may_move(self, now_s: float) -> bool:
        """Not so often."""
        if now_s < self._moved_s + self._config.move_s:
            return False
        self._moved_s = now_s
        return True

    def _num_unwanted(self, pipeline: tuple[StageView, ...]) -> int:
        return sum(stage.node_id in self._slow | self._leaving for stage in pipeline)
