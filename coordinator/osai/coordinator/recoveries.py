"""How often sessions went on elsewhere. Pure."""

from dataclasses import dataclass
from typing import Self

from osai.coordinator.api import Rerouted


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoveries:
    """Times that sessions went on over another pipeline, and for how long they paused for it in all."""

    num_recoveries: int = 0
    pause_s: float = 0.0

    def after(self, rerouted: Rerouted) -> Self:
        """One more."""
        return type(self)(num_recoveries=self.num_recoveries + 1, pause_s=self.pause_s + rerouted.pause_s)
