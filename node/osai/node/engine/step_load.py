"""How busy a span is, and how fast of late. Pure: it is told the time."""

from collections import deque
from dataclasses import dataclass

NUM_KEPT = 32  # decode steps whose mean is told: one that was disturbed does not count for much
KEPT_S = 30.0  # what is older says nothing of now: a node that was slow, and is used no more, gets another try


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """A span at one moment.

    Attributes:
        recent_step_s: mean of the last decode steps; 0 where there were none of late.
        step_in_hand_s: for how long its present step has run; 0 between steps.
        num_waiting_rows: that wait for a step.
    """

    recent_step_s: float
    step_in_hand_s: float
    num_waiting_rows: int


class StepMeter:
    """Times of one span's steps, as they begin and end."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, float]] = deque(maxlen=NUM_KEPT)  # of decode steps: when, and seconds
        self._begun_s: float | None = None

    def begun(self, now_s: float) -> None:
        """A step begins."""
        self._begun_s = now_s

    def ended(self, now_s: float, *, is_decode: bool) -> None:
        """It has ended; `is_decode` if it took no rows of prompts."""
        if self._begun_s is not None and is_decode:
            self._ended.append((now_s, now_s - self._begun_s))
        self._begun_s = None

    def load(self, now_s: float, num_waiting_rows: int) -> StepLoad:
        """The span now."""
        recent = [seconds for at_s, seconds in self._ended if now_s - at_s <= KEPT_S]
        return StepLoad(
            recent_step_s=sum(recent) / len(recent) if recent else 0.0,
            step_in_hand_s=0.0 if self._begun_s is None else max(now_s - self._begun_s, 0.0),
            num_waiting_rows=num_waiting_rows,
        )
