"""What came of one run: its figures, and which promises were broken."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

from scripts.simulation.client import Request
from scripts.simulation.coverage import Gap

MAX_GAP_S = 30.0  # what osai promises while capacity exists
EXCUSE_S = 45.0  # a request that ends for want of nodes does so at most so long after: it waits 30 s for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one run, or of several together; seconds unless the name says otherwise.

    Attributes:
        goodput: tokens of complete requests per disturbed second.
        tokens_per_s: of one request, between its first and last token; the median.
        num_ended: requests that ended with an explicit error while, or just after, there was no coverage.
        num_lost: that ended otherwise, or never, or with other tokens.
        num_gaps: in coverage; `num_capacity_gaps` of them while there was capacity.
        moves_per_hour: spans that gave way to others; `num_harmful_moves`: after which no pipeline joined.
        events: callbacks of the simulation.
    """

    num_requests: int
    num_complete: int
    num_ended: int
    num_lost: int
    goodput: float
    ttft_p50_s: float
    ttft_p95_s: float
    tokens_per_s: float
    num_recoveries: int
    pause_p50_s: float
    pause_p95_s: float
    pause_max_s: float
    num_gaps: int
    gap_max_s: float
    num_capacity_gaps: int
    capacity_gap_max_s: float
    lasting_gap_max_s: float
    moves_per_hour: float
    num_harmful_moves: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one run.

    Attributes:
        broken: promises that were not kept, one a line.
        digest: of the run's log: equal runs have equal ones.
        counts: of what happened, by kind.
        lines: the log, if it was kept.
        series: (seconds, nodes up, holders of the weakest layer) as time went.
        gaps: in coverage: (begun, ended, seconds with capacity).
        tokens_s: when tokens came.
        ttft_s, pauses_s: of requests.
    """

    seed: int
    figures: Figures
    broken: tuple[str, ...]
    digest: str
    counts: dict[str, int]
    lines: tuple[str, ...] = ()
    series: tuple[tuple[float, int, int], ...] = ()
    gaps: tuple[tuple[float, float, float], ...] = ()
    tokens_s: tuple[float, ...] = ()
    ttft_s: tuple[float, ...] = ()
    pauses_s: tuple[float, ...] = ()

    def as_json(self) -> dict[str, object]:
        """For machines."""
        told = asdict(self)
        return {key: told[key] for key in ("seed", "figures", "broken", "digest", "counts", "gaps", "pauses_s")}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; 0 for none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def verdict(request: Request, excuses: Sequence[Gap]) -> str:
    """What a request came to: "complete", "ended" with a good reason, or what is wrong.

    Args:
        request: the request.
        excuses: times without coverage that is known of, or without a coordinator in its client's reach.
    """
    if tuple(request.got) != request.due[: len(request.got)]:
        return f"got {request.got}, due were {list(request.due)}"
    if request.ended_s is None:
        return f"has not ended; {len(request.got)} of {len(request.due)} tokens came"
    if request.error is None:
        is_whole = len(request.got) == len(request.due)
        return (
            "complete" if is_whole else f"is said to be complete with {len(request.got)} of {len(request.due)} tokens"
        )
    since_s = max(request.begun_s, request.ended_s - EXCUSE_S)
    if any(gap.overlaps(since_s, request.ended_s) for gap in excuses):
        return "ended"
    return f"ended though there was a way: {type(request.error).__name__}: {request.error.message}"


def broken_promises(
    requests: Sequence[Request], verdicts: Sequence[str], gaps: Sequence[Gap], errors: Sequence[object]
) -> tuple[str, ...]:
    """One line each."""
    lines = [
        f"request {request.number} of {request.client} at {request.begun_s:.1f} s {text}"
        for request, text in zip(requests, verdicts, strict=True)
        if text not in ("complete", "ended")
    ]
    lines += [
        f"no pipeline joined from {gap.begun_s:.1f} s on, though for {gap.lasting_s:.1f} s enough nodes stayed up"
        for gap in gaps
        if gap.lasting_s > MAX_GAP_S
    ]
    return (*lines, *(f"exception: {error!r}" for error in errors))


def figures(
    requests: Sequence[Request],
    verdicts: Sequence[str],
    gaps: Sequence[Gap],
    *,
    disturbed_s: float,
    num_moves: int,
    num_harmful_moves: int,
    now_s: float,
    events: int,
) -> Figures:
    """Of one run."""
    complete = [request for request, text in zip(requests, verdicts, strict=True) if text == "complete"]
    ttft_s = times_to_first(requests)
    pauses_s = [pause_s for request in requests for pause_s in request.pauses_s]
    rates = [rate for request in complete if (rate := _rate(request))]
    lengths_s = [(gap.ended_s if gap.ended_s is not None else now_s) - gap.begun_s for gap in gaps]
    return Figures(
        num_requests=len(requests),
        num_complete=len(complete),
        num_ended=verdicts.count("ended"),
        num_lost=len(verdicts) - len(complete) - verdicts.count("ended"),
        goodput=sum(len(request.got) for request in complete) / disturbed_s,
        ttft_p50_s=percentile(ttft_s, 0.5),
        ttft_p95_s=percentile(ttft_s, 0.95),
        tokens_per_s=median(rates) if rates else 0.0,
        num_recoveries=len(pauses_s),
        pause_p50_s=percentile(pauses_s, 0.5),
        pause_p95_s=percentile(pauses_s, 0.95),
        pause_max_s=max(pauses_s, default=0.0),
        num_gaps=len(gaps),
        gap_max_s=max(lengths_s, default=0.0),
        num_capacity_gaps=sum(gap.capacity_s > 0 for gap in gaps),
        capacity_gap_max_s=max((gap.capacity_s for gap in gaps), default=0.0),
        lasting_gap_max_s=max((gap.lasting_s for gap in gaps), default=0.0),
        moves_per_hour=num_moves * 3600 / disturbed_s,
        num_harmful_moves=num_harmful_moves,
        events=events,
    )


def times_to_first(requests: Sequence[Request]) -> list[float]:
    """Seconds to each request's first token, where one came."""
    return [request.token_times_s[0] - request.begun_s for request in requests if request.token_times_s]


def _rate(request: Request) -> float:
    times_s = request.token_times_s
    return (len(times_s) - 1) / (times_s[-1] - times_s[0]) if len(times_s) > 1 and times_s[-1] > times_s[0] else 0.0
