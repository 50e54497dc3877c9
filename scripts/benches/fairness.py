"""Bench `fairness`: what another session's long prompt does to the tokens of one that runs."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.figure import MILLISECONDS, SECONDS, Figure, Goal, figures_table
from scripts.benches.prompts import random_prompts
from scripts.benches.report import Result, note
from scripts.benches.running_session import running_session
from scripts.benches.samples import Comparison, Summary, gaps_within, percentile
from scripts.benches.swarm import generate, local_swarm

from osai.client import AsyncClient

NUM_RUNNING_PROMPT_TOKENS = 32
NUM_SETTLING = 8  # tokens of the running session before its gaps count
NUM_GENERATED = 2  # by the session with the long prompt
WARM_UP_SHARE = 8  # of the prompt, in a turn that does not count
NODE_MEMORY = "3GiB"
GOAL = Goal(bar=3, aim=1.5, at_most=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_tokens: of the long prompt.
        num_gaps: without it, over all turns; 200 give a p95 that ten of them lie above.
        repeats: turns, each with another long prompt.
    """

    dtype: str = "bfloat16"
    num_tokens: int = 4096
    num_stages: int = 2
    num_gaps: int = 200
    repeats: int = 5
    model: Path | None = None


@dataclass(slots=True)
class Turns:
    """Samples, one list or number a turn.

    Attributes:
        quiet_s: gaps between the running session's tokens while it is alone.
        busy_s: the same from the other session's request to its first token.
        ttft_s: of the other session beside the running one.
        alone_s: of the same prompt's length with nothing else.
    """

    quiet_s: list[list[float]] = field(default_factory=list)
    busy_s: list[list[float]] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    alone_s: list[float] = field(default_factory=list)


async def run(options: Options) -> Result:
    """Measure gaps without and with the prompt, and the prompt alone, in turns."""
    model, turns = bench_model(options.model, note), Turns()
    async with local_swarm(
        model.folder,
        num_layers=model.num_layers,
        num_stages=options.num_stages,
        dtype=options.dtype,
        num_threads=1,
        memory=NODE_MEMORY,
    ) as client:
        short = replace(options, num_tokens=-(-options.num_tokens // WARM_UP_SHARE))
        await _turn(short, model, client, Turns(), seed=0)
        for i in range(options.repeats):
            await _turn(options, model, client, turns, seed=i + 1)
            note(
                f"{i + 1} of {options.repeats}: p95 gap {percentile(turns.quiet_s[-1], 0.95) * 1e3:.0f} ms, "
                f"beside the prompt {percentile(turns.busy_s[-1], 0.95) * 1e3:.0f} ms"
            )
    return _result(options, model, turns)


async def _turn(options: Options, model: BenchModel, client: AsyncClient, turns: Turns, *, seed: int) -> None:
    alone, beside = random_prompts(model, 2, options.num_tokens, seed=seed)
    turns.alone_s.append((await generate(client, alone, NUM_GENERATED)).ttft_s)
    [short] = random_prompts(model, 1, NUM_RUNNING_PROMPT_TOKENS, seed=seed)
    num_quiet = -(-options.num_gaps // options.repeats)
    async with running_session(client, short) as running:
        await running.reach(NUM_SETTLING + num_quiet + 1)
        quiet_end = time.perf_counter()
        other = await generate(client, beside, NUM_GENERATED)
        first = other.arrivals[0][0]
        await running.reach(len(running.times) + 1)  # the gap in which the prompt ended
        times = list(running.times)
    turns.quiet_s.append(gaps_within(times[NUM_SETTLING:], times[NUM_SETTLING], times[NUM_SETTLING + num_quiet]))
    turns.busy_s.append(gaps_within(times, quiet_end, first))
    turns.ttft_s.append(other.ttft_s)


def p95_ratio(busy: Sequence[Sequence[float]], quiet: Sequence[Sequence[float]]) -> Comparison:
    """The p95 of all gaps beside the prompt / of all without; its range is that of the turns' own."""
    pairs = [percentile(b, 0.95) / percentile(q, 0.95) for b, q in zip(busy, quiet, strict=True)]
    p95s = [percentile([gap for turn in turns for gap in turn], 0.95) for turns in (busy, quiet)]
    return Comparison(
        subject=Summary.of(p95s[:1]),
        baseline=Summary.of(p95s[1:]),
        ratio=p95s[0] / p95s[1],
        low=min(pairs),
        high=max(pairs),
    )


def _figures(turns: Turns) -> list[Figure]:
    medians = [[percentile(turn, 0.5) for turn in gaps] for gaps in (turns.busy_s, turns.quiet_s)]
    return [
        Figure(
            name="p95 gap between tokens, beside the prompt / without",
            unit=MILLISECONDS,
            compared=p95_ratio(turns.busy_s, turns.quiet_s),
            goal=GOAL,
        ),
        Figure(name="median gap, beside the prompt / without", unit=MILLISECONDS, compared=Comparison.of(*medians)),
        Figure(
            name="the prompt's first token, beside the session / alone",
            unit=SECONDS,
            compared=Comparison.of(turns.ttft_s, turns.alone_s),
        ),
    ]


def _result(options: Options, model: BenchModel, turns: Turns) -> Result:
    figures = _figures(turns)
    num_quiet, num_busy = (sum(map(len, gaps)) for gaps in (turns.quiet_s, turns.busy_s))
    return Result(
        name="fairness",
        title=(
            f"gaps between a running session's tokens while a prompt of {options.num_tokens} is read, {model.title}, "
            f"{options.dtype}, {options.num_stages} stages of one thread"
        ),
        command=command_line(
            "fairness",
            dtype=options.dtype,
            tokens=options.num_tokens,
            stages=options.num_stages,
            gaps=options.num_gaps,
            repeats=options.repeats,
            model=options.model,
        ),
        table=figures_table(figures),
        notes=(
            (
                f"{num_busy} gaps beside the prompt, from its request to its first token; {num_quiet} without, just "
                "before, of the same generation. At the client, from the arrival of tokens to the next arrival."
            ),
            (
                "In turns: the prompt alone, the session alone, both; another prompt each time. The p95 is of the gaps "
                "of all turns together, the range that of single turns."
            ),
        ),
        figures={
            **asdict(options),
            "model": str(model.folder),
            **asdict(turns),
            "figures": [figure.as_json() for figure in figures],
        },
    )


@click.command("fairness")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=Options().dtype, show_default=True)
@count_option("--tokens", "num_tokens", Options().num_tokens, "Of the long prompt.", least=64)
@count_option("--stages", "num_stages", Options().num_stages, "Of the pipeline, one thread each.")
@count_option("--gaps", "num_gaps", Options().num_gaps, "Without the prompt, over all turns.", least=2)
@count_option("--repeats", "repeats", Options().repeats, "Turns.")
@model_option
@output_options
def command(**given: object) -> None:
    """Gaps between a running session's tokens while another session's long prompt is read, against those without."""
    run_asked(run, Options, given)
