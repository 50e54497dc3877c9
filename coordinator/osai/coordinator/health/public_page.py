"""The health page, live: what its routes answer with."""

import secrets
import time
from collections.abc import Callable, Collection

from osai.coordinator.api import SwarmView
from osai.coordinator.health.badge import badge_svg, state_of
from osai.coordinator.health.figures import NO_HISTORY, Figures
from osai.coordinator.health.frames import Frames
from osai.coordinator.health.page import HealthPage, Parts
from osai.coordinator.health.report import swarm_health
from osai.coordinator.health.stream import MAX_READERS, Readers
from osai.coordinator.history.keeper import History


class PublicPage:
    """The page behind its routes.

    Args:
        swarm: gives the swarm as it is now.
        num_recoveries: since this coordinator started.
        history: None where none is kept.
        wall_clock: seconds since 1970.
        clock: monotonic seconds.
        max_readers: of the stream of events.
    """

    def __init__(
        self,
        swarm: Callable[[], SwarmView],
        *,
        num_recoveries: Callable[[], int] = lambda: 0,
        history: History | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        max_readers: int = MAX_READERS,
    ) -> None:
        self._num_recoveries = num_recoveries
        self._history = history
        self._wall_clock = wall_clock
        self._clock = clock
        self._page = HealthPage()
        self._written = "", b""  # the report of a frame
        self.readers = Readers(max_readers)
        self.frames = Frames(
            self._page,
            swarm=swarm,
            figures=self._figures,
            wall_clock=wall_clock,
            clock=clock,
            epoch=secrets.token_hex(4),
        )

    def close(self) -> None:
        """The server stops: every reader's stream ends, so that nothing waits for him."""
        self.frames.close()

    def html(self, *, own_url: str, keyed: bool, nodes_page: int) -> str:
        """The page for one reader."""
        frame = self.frames.now()
        parts = frame.parts
        if nodes_page > 1:
            parts = Parts(html={**parts.html, "nodes": self.nodes(nodes_page)}, models=parts.models, title=parts.title)
        return self._page.around(
            parts, frame.view, own_url=own_url, frame_id=frame.frame_id, keyed=keyed, nodes_page=nodes_page
        )

    def nodes(self, page: int) -> str:
        """One page of nodes, as HTML."""
        frame = self.frames.now()
        return self._page.nodes(frame.view, frame.figures, page=page)

    def badge(self, model_id: str) -> tuple[str, bool]:
        """A model's badge, and whether there is such a model."""
        known = next((model for model in self.frames.now().view.models if model.model_id == model_id), None)
        return badge_svg(model_id, state_of(known) if known else "unknown"), known is not None

    def report(self, shown: Collection[str] | None = None) -> bytes:
        """All of it as JSON, written once a tick; `shown`: the models that the reader may see, None for all."""
        frame = self.frames.now()
        if shown is not None:
            return swarm_health(frame.view, frame.figures, at_s=frame.at_s, shown=shown).model_dump_json().encode()
        if self._written[0] != frame.frame_id:
            whole = swarm_health(frame.view, frame.figures, at_s=frame.at_s)
            self._written = frame.frame_id, whole.model_dump_json().encode()
        return self._written[1]

    def _figures(self) -> Figures:
        recorder = self._history.recorder if self._history else None
        now_s = self._clock()
        return Figures(
            past=self._history.past() if self._history else NO_HISTORY,
            model_rates=recorder.rates.by_model(now_s) if recorder else {},
            node_rates=recorder.rates.by_node(now_s) if recorder else {},
            num_recoveries=self._num_recoveries(),
            now=int(self._wall_clock() // 60),
        )
