"""Tells running sessions what becomes known of their nodes besides their links: slow, stuck, about to leave."""

import asyncio
import time
from collections.abc import Mapping

from osai.coordinator.sessions.actions import Action
from osai.coordinator.sessions.route_finder import draining
from osai.coordinator.sessions.runner import SessionRunner
from osai.coordinator.sessions.session import Session
from osai.coordinator.sessions.stage_links import StageLinks
from osai.coordinator.swarm import Swarm

INTERVAL_S = 0.5  # a fraction of a heartbeat's: nodes' records bring what there is to see


class SessionWatch:
    """Looks now and then, while there is anything to look for.

    Args:
        running: the sessions, by their numbers.
        swarm: as this coordinator sees it.
        stages: where sessions are to be closed on nodes that come back.
    """

    def __init__(self, running: Mapping[int, SessionRunner], swarm: Swarm, stages: StageLinks) -> None:
        self._running = running
        self._swarm = swarm
        self._stages = stages
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """There is something to look for."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._stages.flush()
        self._look()
        if self._running or self._stages.has_pending:
            self.start()

    def _look(self) -> None:
        suspects, nodes = self._swarm.suspects(time.monotonic()), self._swarm.nodes
        leaving: dict[str, frozenset[str]] = {}
        for runner in self._running.values():
            if runner.model_id not in leaving:
                leaving[runner.model_id] = draining(nodes, runner.model_id)
            unwanted = suspects | leaving[runner.model_id]
            if runner.was_watched or not unwanted.isdisjoint(runner.session.nodes):
                _tell(runner, suspects, leaving[runner.model_id])


def _tell(runner: SessionRunner, suspects: frozenset[str], leaving: frozenset[str]) -> None:
    def happening(session: Session, now_s: float) -> list[Action]:
        return session.watched(suspects, leaving, now_s)

    runner.was_watched = not (suspects | leaving).isdisjoint(runner.session.nodes)  # once more when all is well again
    runner.happened(happening)
