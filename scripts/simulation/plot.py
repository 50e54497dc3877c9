"""The plot of some runs: the one with the longest gap over time, and pauses and first tokens of all."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scripts.simulation.outcome import Outcome
from scripts.simulation.scenario import Scenario

BIN_S = 2.0
INCHES, DPI = (11, 10), 110


def draw(scenario: Scenario, outcomes: Sequence[Outcome], file: Path) -> None:
    """Write a PNG."""
    mpl.use("Agg")
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    worst = max(outcomes, key=lambda each: each.figures.gap_max_s)
    figure.suptitle(
        f"{scenario.name}: {scenario.num_nodes} nodes, {scenario.minutes:g} min, {len(outcomes)} seeds; "
        f"on the left seed {worst.seed}"
    )
    axes = figure.subplots(3, 2)
    _nodes(axes[0][0], worst)
    _tokens(axes[1][0], worst)
    _gaps(axes[2][0], worst)
    _distribution(axes[0][1], [value for each in outcomes for value in each.pauses_s], "pause of a recovery, s")
    _distribution(axes[1][1], [value for each in outcomes for value in each.ttft_s], "time to first token, s")
    _moves(axes[2][1], outcomes)
    figure.savefig(file)


def _nodes(axes: Axes, outcome: Outcome) -> None:
    times_s = [at_s for at_s, _, _ in outcome.series]
    axes.plot(times_s, [count for _, count, _ in outcome.series], label="nodes up")
    axes.plot(times_s, [count for _, _, count in outcome.series], label="holders of the weakest layer")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s")
    axes.legend()


def _tokens(axes: Axes, outcome: Outcome) -> None:
    end_s = max(outcome.tokens_s, default=0.0)
    edges = [BIN_S * index for index in range(int(end_s / BIN_S) + 2)]
    axes.hist(outcome.tokens_s, bins=edges, weights=[1 / BIN_S] * len(outcome.tokens_s))
    axes.set_xlabel("s")
    axes.set_ylabel("tokens/s, all clients")


def _gaps(axes: Axes, outcome: Outcome) -> None:
    for begun_s, ended_s, capacity_s in outcome.gaps:
        axes.barh("no pipeline", ended_s - begun_s, left=begun_s, color="tab:orange")
        axes.barh("while capacity existed", capacity_s, left=ended_s - capacity_s, color="tab:red")
    if outcome.series:
        axes.set_xlim(outcome.series[0][0], outcome.series[-1][0])
    axes.set_xlabel("s")
    axes.set_title(f"{len(outcome.gaps)} gaps in coverage", fontsize="medium")


def _distribution(axes: Axes, values: Sequence[float], what: str) -> None:
    axes.ecdf(values or [0.0])
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel(what)
    axes.set_ylabel(f"share of {len(values)}")


def _moves(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    axes.scatter(
        [each.figures.moves_per_hour for each in outcomes], [each.figures.capacity_gap_max_s for each in outcomes]
    )
    axes.set_xlabel("moves an hour, each seed")
    axes.set_ylabel("longest gap with capacity, s")
