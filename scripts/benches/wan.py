"""Bench `wan`: a token's time over slow links, against the sum of their delays and the swarm's time without them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import click
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, counts, model_option, output_options, run_asked
from scripts.benches.figure import MILLISECONDS, SECONDS, TOKENS_A_SECOND, Figure, Goal, figures_table
from scripts.benches.prompts import random_prompts
from scripts.benches.relayed_swarm import RelayedSwarm, relayed_swarm
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison, aggregate_rate
from scripts.benches.shim_error import one_way_s
from scripts.benches.swarm import Generated, generate, generate_all

NUM_PROMPT_TOKENS = 32
NUM_LONG_PROMPT_TOKENS = 2048
NUM_FIRST = 2  # tokens generated where the first one's time is asked
NUM_WARM_UP_TOKENS = 8
# Ways of one delay each, before the first token, beside one for each link of the pipeline: the session is opened (there
# and back), the prompt goes out, the token comes back.
NUM_FIRST_WAYS = 4
GOAL = Goal(bar=1.08, aim=1.03, at_most=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        delays_ms: one way; of each link of the ring and of the coordinator's to each stage.
        num_tokens: of each generation; its time a token is the median gap between them.
        num_stages: of the pipeline, one thread each; a token crosses as many links.
        num_sessions: at once, in the rate that is given for information.
        repeats: turns, each with every delay.
    """

    delays_ms: tuple[int, ...] = (20, 50, 100)
    dtype: str = "bfloat16"
    num_tokens: int = 32
    num_stages: int = 2
    num_sessions: int = 8
    repeats: int = 5
    model: Path | None = None


@dataclass(slots=True)
class Turns:
    """Samples by delay in ms, one a turn; 0 is the swarm without delay.

    Attributes:
        gap_s: median seconds between a single session's tokens.
        rate: tokens a second of all sessions together.
        ttft_s: seconds to the first token of a long prompt.
    """

    gap_s: dict[int, list[float]] = field(default_factory=dict)
    rate: dict[int, list[float]] = field(default_factory=dict)
    ttft_s: dict[int, list[float]] = field(default_factory=dict)


async def run(options: Options) -> Result:
    """Measure the swarm with each delay and without, in turns."""
    model = bench_model(options.model, note)
    exact = {ms: await one_way_s(ms / 1e3) for ms in options.delays_ms}
    turns = Turns()
    async with relayed_swarm(model.folder, num_stages=options.num_stages, dtype=options.dtype, num_threads=1) as swarm:
        await _turn(options, model, swarm, 0, Turns(), seed=0)  # dials the links, warms up
        for i in range(options.repeats):
            for ms in (0, *options.delays_ms):
                await _turn(options, model, swarm, ms, turns, seed=1 + i * 1000 + ms)
            gaps = ", ".join(f"{gaps[-1] * 1e3:.1f} ms at {ms}" for ms, gaps in turns.gap_s.items())
            note(f"{i + 1} of {options.repeats}: a token takes {gaps}")
    return _result(options, model, turns, exact)


async def _turn(options: Options, model: BenchModel, swarm: RelayedSwarm, ms: int, turns: Turns, *, seed: int) -> None:
    swarm.delay(ms / 1e3)
    prompts = random_prompts(model, options.num_sessions + 1, NUM_PROMPT_TOKENS, seed)
    single = await generate(swarm.client, prompts.pop(), options.num_tokens)
    turns.gap_s.setdefault(ms, []).append(token_gap_s(single))
    together = await generate_all(swarm.client, prompts, options.num_tokens)
    turns.rate.setdefault(ms, []).append(aggregate_rate([g.arrivals for g in together]))
    if ms in {0, max(options.delays_ms)}:
        (long,) = random_prompts(model, 1, NUM_LONG_PROMPT_TOKENS, seed)
        turns.ttft_s.setdefault(ms, []).append((await generate(swarm.client, long, NUM_FIRST)).ttft_s)


def token_gap_s(generated: Generated) -> float:
    """Median seconds between the arrivals of single tokens."""
    return median((later - earlier) / num for (earlier, _), (later, num) in pairwise(generated.arrivals))


def _result(options: Options, model: BenchModel, turns: Turns, exact: Mapping[int, float]) -> Result:
    figures = [_gap(options, turns, ms) for ms in options.delays_ms]
    figures += [_rate(options, turns, ms) for ms in options.delays_ms]
    figures.append(_first(options, turns, max(options.delays_ms)))
    shim = ", ".join(f"{at * 1e3:.2f} ms at {ms}" for ms, at in exact.items())
    return Result(
        name="wan",
        title=(
            f"a token's time over delayed links, {options.num_stages} stages, {model.title}, {options.dtype}, "
            f"medians of {options.repeats}"
        ),
        command=command_line(
            "wan",
            delays=",".join(map(str, options.delays_ms)),
            dtype=options.dtype,
            tokens=options.num_tokens,
            stages=options.num_stages,
            sessions=options.num_sessions,
            repeats=options.repeats,
            model=options.model,
        ),
        table=figures_table(figures),
        notes=(*_notes(options), f"The relay's own error: one way of 16 KiB through it takes {shim}."),
        figures={
            **asdict(options),
            "model": str(model.folder),
            **asdict(turns),
            "shim_one_way_s": dict(exact),
            "figures": [figure.as_json() for figure in figures],
        },
    )


def _notes(options: Options) -> Sequence[str]:
    return (
        (
            "A relay in front of each stage delays what comes from its predecessor and from the coordinator, both "
            "ways; client and coordinator are side by side. It limits no rate, and TCP's own windows see no delay."
        ),
        (
            f"A token: median gap at the client, against {options.num_stages} delays, one a link of the ring, and the "
            "median gap of the same swarm without delay, in the same turn and through the same relays."
        ),
        (
            f"Together: {options.num_sessions} sessions; each at best a token in the time above, so that links and "
            "stages are never waited for."
        ),
        (
            f"First token of a prompt of {NUM_LONG_PROMPT_TOKENS}: against the same without delay, and "
            f"{NUM_FIRST_WAYS + options.num_stages - 1} ways: open and its answer, the prompt, each link, the token."
        ),
    )


def _ideal_gaps(options: Options, turns: Turns, ms: int) -> list[float]:
    return [options.num_stages * ms / 1e3 + gap for gap in turns.gap_s[0]]


def _gap(options: Options, turns: Turns, ms: int) -> Figure:
    return Figure(
        name=f"{ms} ms one way: a token / delays + compute",
        unit=MILLISECONDS,
        compared=Comparison.of(turns.gap_s[ms], _ideal_gaps(options, turns, ms)),
        goal=GOAL,
    )


def _rate(options: Options, turns: Turns, ms: int) -> Figure:
    ideal = [options.num_sessions / gap for gap in _ideal_gaps(options, turns, ms)]
    name = f"{ms} ms one way: {options.num_sessions} sessions together / ideal"
    return Figure(name=name, unit=TOKENS_A_SECOND, compared=Comparison.of(turns.rate[ms], ideal))


def _first(options: Options, turns: Turns, ms: int) -> Figure:
    ways = NUM_FIRST_WAYS + options.num_stages - 1
    ideal = [ways * ms / 1e3 + first for first in turns.ttft_s[0]]
    name = f"{ms} ms one way: first of {NUM_LONG_PROMPT_TOKENS} / delays + same without"
    return Figure(name=name, unit=SECONDS, compared=Comparison.of(turns.ttft_s[ms], ideal))


@click.command("wan")
@click.option("--delays", "delays_ms", default="20,50,100", show_default=True, callback=counts, help="One way, in ms.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=Options().dtype, show_default=True)
@count_option("--tokens", "num_tokens", Options().num_tokens, "Generated in each repeat.", least=3)
@count_option("--stages", "num_stages", Options().num_stages, "Of the pipeline.", least=2)
@count_option("--sessions", "num_sessions", Options().num_sessions, "At once, for the rate of all together.")
@count_option("--repeats", "repeats", Options().repeats, "Turns.")
@model_option
@output_options
def command(**given: object) -> None:
    """A token's time over slow links, against the sum of their delays and the same swarm's time without them."""
    run_asked(run, Options, given)
