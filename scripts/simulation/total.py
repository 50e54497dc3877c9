"""Figures of several runs together, and how they read."""

from collections.abc import Sequence
from statistics import median

from scripts.simulation.outcome import Figures, Outcome, percentile


def total(outcomes: Sequence[Outcome]) -> Figures:
    """Sums, the largest of the largest, and percentiles over all requests; rates are the mean over runs."""
    each = [outcome.figures for outcome in outcomes]
    ttft_s = [value for outcome in outcomes for value in outcome.ttft_s]
    pauses_s = [value for outcome in outcomes for value in outcome.pauses_s]
    return Figures(
        num_requests=sum(one.num_requests for one in each),
        num_complete=sum(one.num_complete for one in each),
        num_ended=sum(one.num_ended for one in each),
        num_lost=sum(one.num_lost for one in each),
        goodput=sum(one.goodput for one in each) / len(each),
        ttft_p50_s=percentile(ttft_s, 0.5),
        ttft_p95_s=percentile(ttft_s, 0.95),
        tokens_per_s=median(one.tokens_per_s for one in each),
        num_recoveries=sum(one.num_recoveries for one in each),
        pause_p50_s=percentile(pauses_s, 0.5),
        pause_p95_s=percentile(pauses_s, 0.95),
        pause_max_s=max(one.pause_max_s for one in each),
        num_gaps=sum(one.num_gaps for one in each),
        gap_max_s=max(one.gap_max_s for one in each),
        num_capacity_gaps=sum(one.num_capacity_gaps for one in each),
        capacity_gap_max_s=max(one.capacity_gap_max_s for one in each),
        lasting_gap_max_s=max(one.lasting_gap_max_s for one in each),
        moves_per_hour=sum(one.moves_per_hour for one in each) / len(each),
        num_harmful_moves=sum(one.num_harmful_moves for one in each),
        events=sum(one.events for one in each),
    )


def text(told: Figures) -> str:
    """For people."""
    lines = {
        "requests": f"{told.num_requests}: {told.num_complete} complete with the tokens of an undisturbed run, "
        f"{told.num_ended} ended explicitly for want of nodes, {told.num_lost} lost",
        "goodput": f"{told.goodput:.1f} tokens/s of the whole swarm; {told.tokens_per_s:.2f} tokens/s a request",
        "first token": f"p50 {told.ttft_p50_s:.2f} s, p95 {told.ttft_p95_s:.2f} s",
        "recoveries": f"{told.num_recoveries}: pauses p50 {told.pause_p50_s:.2f} s, p95 {told.pause_p95_s:.2f} s, "
        f"longest {told.pause_max_s:.2f} s",
        "gaps": f"{told.num_gaps} in coverage, longest {told.gap_max_s:.1f} s; {told.num_capacity_gaps} with capacity, "
        f"for {told.capacity_gap_max_s:.1f} s at most, for {told.lasting_gap_max_s:.1f} s by the same nodes",
        "moves": f"{told.moves_per_hour:.1f} an hour, {told.num_harmful_moves} of them opened a gap",
    }
    return "\n".join(f"{name:12} {line}" for name, line in lines.items())
