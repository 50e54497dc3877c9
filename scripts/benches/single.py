"""Bench `single`: decode speed of one stream, a swarm's against transformers' `generate()` in one process."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, counts, model_option, output_options, run_asked
from scripts.benches.figure import Goal
from scripts.benches.machine import num_cores
from scripts.benches.program import Program, running
from scripts.benches.prompts import random_prompts
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison, decode_rate
from scripts.benches.swarm import Generated, generate, local_swarm
from scripts.benches.table import Table

from osai.client import AsyncClient

NUM_PROMPT_TOKENS = 32
NUM_WARM_UP_TOKENS = 8  # the first steps make buffers and dial links
LOAD_DEADLINE_S = 120.0  # imports and half a GB of weights on a busy machine
GENERATION_DEADLINE_S = 300.0
GOALS = {2: Goal(bar=1.2, aim=1.8), 4: Goal(bar=1.1, aim=1.7)}  # by number of stages
WHY = "In a single stream only one stage works at a time, so that both have the same cores at work."
TIMED = "Timed from the first token to the last, so without prefill. The two take turns, repeat by repeat."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        stages: number of stages of each swarm.
        num_tokens: generated in each repeat; 64 take some seconds, and grow the context from 32 to 96.
        repeats: five give a median that one disturbed repeat does not move.
        num_threads: of the baseline, and of each stage; as many as there are cores.
    """

    dtype: str = "bfloat16"
    stages: tuple[int, ...] = (2, 4)
    num_tokens: int = 64
    repeats: int = 5
    num_threads: int = field(default_factory=num_cores)
    model: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One swarm against the baseline; `same_tokens` counts the repeats in which both gave the same tokens."""

    num_stages: int
    tokens_per_s: Comparison
    same_tokens: int


async def run(options: Options) -> Result:
    """Measure each swarm in turns with the baseline."""
    model = bench_model(options.model, note)
    arguments = (str(model.folder), options.dtype, str(options.num_threads))
    async with running("transformers", "scripts.benches.baseline", *arguments) as baseline:
        await baseline.answer(LOAD_DEADLINE_S)
        measured = [await _measure(options, model, baseline, num_stages) for num_stages in options.stages]
    return _result(options, model, measured)


async def _measure(options: Options, model: BenchModel, baseline: Program, num_stages: int) -> Measured:
    async with local_swarm(
        model.folder,
        num_layers=model.num_layers,
        num_stages=num_stages,
        dtype=options.dtype,
        num_threads=options.num_threads,
    ) as client:
        prompts = random_prompts(model, options.repeats + 1, NUM_PROMPT_TOKENS)
        await _pair(baseline, client, prompts.pop(), NUM_WARM_UP_TOKENS)
        pairs = []
        for i, prompt in enumerate(prompts):
            pairs.append(await _pair(baseline, client, prompt, options.num_tokens))
            theirs, ours = (decode_rate(generated.arrivals) for generated in pairs[-1])
            note(
                f"{num_stages} stages, {i + 1} of {options.repeats}: swarm {ours:.1f}, transformers {theirs:.1f} tok/s"
            )
    return _compare(num_stages, pairs)


def _compare(num_stages: int, pairs: Sequence[tuple[Generated, Generated]]) -> Measured:
    theirs, ours = zip(*pairs, strict=True)
    return Measured(
        num_stages=num_stages,
        tokens_per_s=Comparison.of([decode_rate(g.arrivals) for g in ours], [decode_rate(g.arrivals) for g in theirs]),
        same_tokens=sum(a.token_ids == b.token_ids for a, b in pairs),
    )


async def _pair(
    baseline: Program, client: AsyncClient, prompt: list[int], num_tokens: int
) -> tuple[Generated, Generated]:
    """The same generation by the baseline, then by the swarm."""
    answer = await baseline.ask({"prompt": prompt, "num_tokens": num_tokens}, GENERATION_DEADLINE_S)
    arrivals = tuple((float(at), int(count)) for at, count in answer["arrivals"])
    theirs = Generated(token_ids=tuple(answer["token_ids"]), arrivals=arrivals)
    return theirs, await generate(client, prompt, num_tokens)


def _result(options: Options, model: BenchModel, measured: Sequence[Measured]) -> Result:
    header = ("swarm", "swarm tok/s", "transformers tok/s", "ratio", "ratio of pairs", "bar", "aim", "same tokens")
    return Result(
        name="single",
        title=f"decode tokens/s of one stream, {model.title}, {options.dtype}, medians of {options.repeats}",
        command=command_line(
            "single",
            dtype=options.dtype,
            stages=",".join(map(str, options.stages)),
            tokens=options.num_tokens,
            repeats=options.repeats,
            threads=options.num_threads,
            model=options.model,
        ),
        table=Table(header=header, rows=tuple(_row(options, one) for one in measured)),
        notes=(
            f"Torch threads: {options.num_threads} for transformers, and {options.num_threads} for each stage. {WHY}",
            f"Greedy, {options.num_tokens} tokens after a prompt of {NUM_PROMPT_TOKENS}. {TIMED}",
            "The swarm is `osai up`: each stage a process, real sockets, timed at the client.",
        ),
        figures={**asdict(options), "model": str(model.folder), "swarms": [asdict(one) for one in measured]},
    )


def _row(options: Options, measured: Measured) -> tuple[str, ...]:
    speed = measured.tokens_per_s
    goal = GOALS.get(measured.num_stages)
    return (
        f"{measured.num_stages} stages",
        f"{speed.subject.median:.1f}",
        f"{speed.baseline.median:.1f}",
        f"{speed.ratio:.2f}",
        f"{speed.low:.2f} to {speed.high:.2f}",
        *(goal.cells() if goal else ("", "")),
        f"{measured.same_tokens} of {options.repeats}",
    )


@click.command("single")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=Options().dtype, show_default=True)
@click.option("--stages", default=",".join(map(str, Options().stages)), show_default=True, callback=counts)
@count_option("--tokens", "num_tokens", Options().num_tokens, "Generated in each repeat.", least=2)
@count_option("--repeats", "repeats", Options().repeats, "Pairs of runs.")
@count_option("--threads", "num_threads", Options().num_threads, "Torch threads of the baseline, and of each stage.")
@model_option
@output_options
def command(**given: object) -> None:
    """Decode speed of one stream: swarms of so many stages against transformers' generate() in one process."""
    run_asked(run, Options, given)
