"""Simulated machines: processes that run, are stopped for a while, or are gone."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from scripts.simulation.loop import VirtualLoop

Accept = Callable[["object", str], "object"]


@dataclass(slots=True, eq=False)
class Host:
    """One process on one machine; a restarted one is another Host of the same id.

    Attributes:
        place: on a map of side 1: delays grow with the distance.
        alive: it has not been killed.
        hung: it is stopped: what is to happen to it happens when it goes on.
        off_s: its wall clock is ahead by so much, and `drift` more for each second.
    """

    id: str
    loop: VirtualLoop
    place: tuple[float, float] = (0.5, 0.5)
    alive: bool = True
    hung: bool = False
    off_s: float = 0.0
    drift: float = 0.0
    has_power: bool = True
    _held: deque[tuple[Callable[..., object], tuple[object, ...]]] = field(default_factory=deque)

    @property
    def runs(self) -> bool:
        """Whether it does anything now."""
        return self.alive and not self.hung

    def now_s(self) -> float:
        """Its monotonic clock."""
        return self.loop.now * (1 + self.drift)

    def wall_s(self) -> float:
        """Its wall clock, seconds since the beginning of the simulation."""
        return self.loop.now * (1 + self.drift) + self.off_s

    def after(self, delay_s: float, callback: Callable[..., object], *args: object) -> None:
        """Have something happen to it later, if it is still there."""
        self.loop.call_later(delay_s, self.happen, callback, *args)

    def happen(self, callback: Callable[..., object], *args: object) -> None:
        """Something happens to it: now, when it goes on, or never."""
        if not self.alive:
            return
        if self.hung:
            self._held.append((callback, args))
        else:
            callback(*args)

    def stop(self) -> None:
        """SIGSTOP."""
        self.hung = True

    def go_on(self) -> None:
        """SIGCONT: all that came meanwhile happens now, in order."""
        self.hung = False
        while self._held and self.runs:
            callback, args = self._held.popleft()
            callback(*args)

    def kill(self) -> None:
        """SIGKILL, or its power is cut."""
        self.alive = False
        self._held.clear()
