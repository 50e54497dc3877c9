"""What a step of so many rows takes, learned from the steps that ran. Pure."""

from bisect import bisect_left, bisect_right
from collections import deque
from itertools import accumulate
from statistics import median_low

# Step sizes: each number to 8, then four in each doubling. What is planned has one of these sizes, so that few differ:
# libraries prepare a kernel, and CUDA a graph, for each size.
STEP_SIZES = (*range(1, 9), *((1 << i) * quarters // 4 for i in range(3, 14) for quarters in (5, 6, 7, 8)))
_NEXT_SIZE = 1.25  # from one size to the next
_NUM_KEPT = 5  # of a size: the median of five bears two outliers, and follows a change within three steps
_STALE_AFTER = 64  # steps without one of a size; then it may be tried anew, if smaller ones are fast enough


def step_size(num_rows: int) -> int:
    """The largest step size of at most `num_rows`; 0 for 0."""
    at = bisect_right(STEP_SIZES, num_rows)
    return STEP_SIZES[at - 1] if at else 0


class StepCost:
    """Seconds by step size: the median of the last few of a size, raised to that of any smaller one, lines between.

    Beyond the sizes seen, time is taken to be proportional to rows. As a step costs something fixed and something a
    row, that is never too little for more rows than seen, nor too much for fewer. Only for the next larger size the
    line through the two largest is believed, or nothing larger might ever be tried: larger steps come bit by bit.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._last_seen: dict[int, int] = {}  # by size: number of the step
        self._num_steps = 0
        self._sizes: list[int] = []  # those seen, rising
        self._times: list[float] = []  # their seconds, never falling

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step of that many rows took so long."""
        size = step_size(num_rows)
        if size == 0:
            return
        self._num_steps += 1
        self._seconds.setdefault(size, deque(maxlen=_NUM_KEPT)).append(seconds)
        self._last_seen[size] = self._num_steps
        for other in self._sizes:  # smaller ones stay: they are the measure of what a step may take
            if other > size and self._num_steps - self._last_seen[other] > _STALE_AFTER:
                del self._seconds[other], self._last_seen[other]
        self._sizes = sorted(self._seconds)
        self._times = list(accumulate((median_low(self._seconds[s]) for s in self._sizes), max))

    def predict(self, num_rows: int) -> float | None:
        """Seconds of a step of `num_rows`, at least 1; None before the first step."""
        if not self._sizes:
            return None
        at = bisect_left(self._sizes, num_rows)
        if at == len(self._sizes):
            return self._beyond(num_rows)
        if self._sizes[at] == num_rows:
            return self._times[at]
        if at == 0:
            return self._times[0] * num_rows / self._sizes[0]
        part = (num_rows - self._sizes[at - 1]) / (self._sizes[at] - self._sizes[at - 1])
        return self._times[at - 1] + part * (self._times[at] - self._times[at - 1])

    def _beyond(self, num_rows: int) -> float:
        size, seconds = self._sizes[-1], self._times[-1]
        if len(self._sizes) == 1 or num_rows > _NEXT_SIZE * size:
            return seconds * num_rows / size
        slope = (seconds - self._times[-2]) / (size - self._sizes[-2])
        return seconds + slope * (num_rows - size)

    def max_rows(self, seconds: float, at_most: int) -> int:
        """The largest step size, or `at_most`, of which a step should take no more than `seconds`; 0 if none."""
        best = 0
        for size in (*STEP_SIZES[: bisect_left(STEP_SIZES, at_most)], at_most):
            predicted = self.predict(size)
            if predicted is None or predicted > seconds:
                break
            best = size
        return best
