"""Many durations as a small histogram. Pure."""

import math
from collections.abc import Iterable, Mapping
from typing import Self

_LEAST_S = 0.0005
_PER_OCTAVE = 8  # buckets a doubling: a quantile is right to 5%
_LAST = 8 * 19  # the last bucket: about 260 s and all above


class Latencies:
    """Counts of durations by their logarithm. It grows by `add` and `include`."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts = dict(counts or {})

    @classmethod
    def merged(cls, parts: Iterable[Self]) -> Self:
        """All of several."""
        whole = cls()
        for part in parts:
            whole.include(part)
        return whole

    @property
    def num_samples(self) -> int:
        """How many durations there are."""
        return sum(self._counts.values())

    def add(self, seconds: float, num_samples: int = 1) -> None:
        """Count a duration, so many times; what is no time is left out."""
        if math.isfinite(seconds) and num_samples > 0:
            place = math.floor(math.log2(max(seconds, _LEAST_S) / _LEAST_S) * _PER_OCTAVE)
            place = min(place, _LAST)
            self._counts[place] = self._counts.get(place, 0) + num_samples

    def include(self, other: Self) -> None:
        """Count all that another one has counted."""
        for place, count in other._counts.items():
            self._counts[place] = self._counts.get(place, 0) + count

    def quantile(self, share: float) -> float | None:
        """Seconds that `share` of the durations stay within; None where there are none."""
        left = share * self.num_samples
        for place, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return float(_LEAST_S * 2.0 ** ((place + 0.5) / _PER_OCTAVE))
        return None

    def pairs(self) -> list[list[int]]:
        """As it is stored: bucket and count, ascending."""
        return [[place, count] for place, count in sorted(self._counts.items())]

    @classmethod
    def from_pairs(cls, pairs: object) -> Self:
        """What `pairs` gave; raises ValueError if it is nothing like that."""
        try:
            return cls({min(int(place), _LAST): int(count) for place, count in pairs})  # type: ignore[attr-defined]
        except TypeError as e:
            raise ValueError(f"no histogram: {e}") from e
