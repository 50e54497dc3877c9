"""What is made of measured samples. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from osai.core.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Samples of one quantity, in their own unit.

    Attributes:
        p95: 95th percentile, interpolated between the two nearest samples.
    """

    median: float
    p95: float
    low: float
    high: float
    num_samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """Summarise samples.

        Raises:
            InvalidRequestError: if there is none.
        """
        if not samples:
            raise InvalidRequestError("nothing was measured: there is no sample to summarise")
        return cls(
            median=statistics.median(samples),
            p95=percentile(samples, 0.95),
            low=min(samples),
            high=max(samples),
            num_samples=len(samples),
        )


def percentile(samples: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the samples stay below, linear between samples (Hyndman and Fan's type 7)."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A quantity measured in turns, once in each pair, of the subject and of its baseline.

    Attributes:
        ratio: median of the subject / median of the baseline.
        low, high: of the pairs' own ratios; wide where the machine was busy with something else.
    """

    subject: Summary
    baseline: Summary
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, subject: Sequence[float], baseline: Sequence[float]) -> Self:
        """Compare pair by pair.

        Raises:
            InvalidRequestError: if the numbers of samples differ, there is none, or a baseline is not above zero.
        """
        if len(subject) != len(baseline):
            raise InvalidRequestError(f"{len(subject)} samples can't be paired with {len(baseline)} of the baseline")
        mine, other = Summary.of(subject), Summary.of(baseline)
        if other.low <= 0:
            raise InvalidRequestError("a baseline of zero gives no ratio")
        ratios = [a / b for a, b in zip(subject, baseline, strict=True)]
        ratio = mine.median / other.median
        return cls(subject=mine, baseline=other, ratio=ratio, low=min(ratios), high=max(ratios))


def decode_rate(arrivals: Sequence[tuple[float, int]]) -> float:
    """Tokens a second from the first token to the last, prefill and the first token left out.

    Args:
        arrivals: (seconds, tokens that came then), in order; what came with the first token is left out too.

    Raises:
        InvalidRequestError: if fewer than two arrivals, or no time between them, or the times run backwards.
    """
    if any(later < earlier for (earlier, _), (later, _) in pairwise(arrivals)):
        raise InvalidRequestError("arrivals must be in the order of time")
    if len(arrivals) < 2 or arrivals[-1][0] == arrivals[0][0]:
        raise InvalidRequestError("a rate needs tokens at two moments at least: generate more tokens")
    return sum(count for _, count in arrivals[1:]) / (arrivals[-1][0] - arrivals[0][0])


def aggregate_rate(streams: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Tokens a second of streams together, while all of them run.

    From the moment at which the last stream has its first token to that at which the first stream has its last one: no
    prefill, no start-up, and no moment in which some have ended.

    Args:
        streams: of each its arrivals: (seconds, tokens that came then), in order.

    Raises:
        InvalidRequestError: if there is none, or never a moment at which all run.
    """
    if not streams or not all(streams):
        raise InvalidRequestError("a rate needs streams, and tokens of each")
    start, end = max(arrivals[0][0] for arrivals in streams), min(arrivals[-1][0] for arrivals in streams)
    if end <= start:
        raise InvalidRequestError("the streams never ran all at once: generate more tokens")
    return sum(count for arrivals in streams for at, count in arrivals if start < at <= end) / (end - start)


def gaps_within(arrivals: Sequence[float], start: float, end: float) -> list[float]:
    """Seconds from arrival to arrival, of those gaps that lie in [start, end] or reach into it."""
    return [later - earlier for earlier, later in pairwise(arrivals) if later > start and earlier < end]
