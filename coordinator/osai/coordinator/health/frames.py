"""What is live on the page, rendered once a tick for all who read it."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from osai.coordinator.api import SwarmView
from osai.coordinator.health.figures import Figures
from osai.coordinator.health.page import HealthPage, Parts

log = logging.getLogger(__name__)

TICK_S = 2.0
_NO_PARTS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The page at one tick.

    Attributes:
        frame_id: of this frame; `before`: of the one before it, empty for the first.
        whole: an event with every part.
        change: an event with those parts alone that `before` had otherwise.
    """

    frame_id: str
    before: str
    at_s: float
    view: SwarmView
    figures: Figures
    parts: Parts
    whole: bytes
    change: bytes

    def event_for(self, seen_id: str) -> bytes:
        """What brings a reader up to date, who has seen that frame."""
        return self.change if seen_id and seen_id == self.before else self.whole


class Frames:
    """The newest frame. It is made when somebody asks, and no more often than once a tick.

    Args:
        page: renders it.
        swarm: gives the swarm as it is now.
        figures: gives what is shown beside it.
        wall_clock: seconds since 1970.
        clock: monotonic seconds.
        epoch: tells this process' frames from those of another one.
    """

    def __init__(
        self,
        page: HealthPage,
        *,
        swarm: Callable[[], SwarmView],
        figures: Callable[[], Figures],
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
        epoch: str,
    ) -> None:
        self._page = page
        self._swarm = swarm
        self.figures = figures
        self._wall_clock = wall_clock
        self._clock = clock
        self._epoch = epoch
        self._frame: Frame | None = None
        self._made_s = 0.0
        self._ticking: asyncio.Task[None] | None = None
        self._closed = False
        self.num_rendered = 0

    @property
    def is_closed(self) -> bool:
        """Whether the server stops."""
        return self._closed

    def now(self) -> Frame:
        """A frame that is at most a tick old."""
        if self._frame is None or self._clock() - self._made_s >= TICK_S:
            return self.render_anew()
        return self._frame

    def render_anew(self) -> Frame:
        """A frame of this moment."""
        self._frame = self._render()
        return self._frame

    async def after(self, seen_id: str) -> Frame | None:
        """The next frame that is not `seen_id`, as soon as there is one; None once the server stops."""
        while not self._closed:
            if self._frame is not None and self._frame.frame_id != seen_id:
                return self._frame
            if self._ticking is None or self._ticking.done():
                self._ticking = asyncio.create_task(self._tick(), name="page-tick")
            await asyncio.wait({self._ticking})
        return None

    def close(self) -> None:
        """Let everybody go who waits."""
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()

    async def _tick(self) -> None:
        await asyncio.sleep(max(0.0, self._made_s + TICK_S - self._clock()) if self._frame else 0.0)
        try:
            self.now()
        except Exception:  # the edge of a task: readers are told at the next tick
            log.exception("the health page can't be rendered")
            await asyncio.sleep(TICK_S)

    def _render(self) -> Frame:
        before, now_s = self._frame, self._wall_clock()
        view, figures = self._swarm(), self.figures()
        parts = self._page.parts(view, figures, now_s=now_s)
        self._made_s = self._clock()
        self.num_rendered += 1
        frame_id = f"{self._epoch}-{self.num_rendered}"
        old = before.parts.html if before else _NO_PARTS
        changed = {name: html for name, html in parts.html.items() if old.get(name) != html}
        return Frame(
            frame_id=frame_id,
            before=before.frame_id if before else "",
            at_s=now_s,
            view=view,
            figures=figures,
            parts=parts,
            whole=_event(frame_id, parts.title, parts.html),
            change=_event(frame_id, parts.title, changed),
        )


def _event(frame_id: str, title: str, parts: Mapping[str, str]) -> bytes:
    data = json.dumps({"title": title, "parts": parts}, ensure_ascii=False, separators=(",", ":"))
    return f"id: {frame_id}\ndata: {data}\n\n".encode()
