"""Bench `prefill`: time to the first token of a long prompt over a pipeline, against the ideal of its chunks."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median

import click
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.figure import SECONDS, Figure, Goal, figures_table
from scripts.benches.program import Program
from scripts.benches.prompts import random_prompts
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison
from scripts.benches.span_child import span_child
from scripts.benches.swarm import generate, local_swarm

from osai.client import AsyncClient
from osai.client.up.plan import even_spans

NODE_MEMORY = "3GiB"  # several processes with weights run side by side
KV_BYTES = 512 * 2**20
ANSWER_DEADLINE_S = 600.0
NUM_GENERATED = 2  # a generation of one token has no second to prove that it goes on
GOAL = Goal(bar=0.80, aim=0.92)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_tokens: of the prompt.
        num_stages: of the pipeline, one thread each.
        repeats: turns, each with another prompt.
    """

    dtype: str = "bfloat16"
    num_tokens: int = 2048
    num_stages: int = 2
    repeats: int = 5
    model: Path | None = None


@dataclass(slots=True)
class Turns:
    """Samples, one a turn.

    Attributes:
        ttft_s: of the swarm.
        alone: by stage, seconds of each of its steps while no other stage computes.
        together: the same while all do.
    """

    ttft_s: list[float] = field(default_factory=list)
    alone: list[list[Sequence[float]]] = field(default_factory=list)
    together: list[list[Sequence[float]]] = field(default_factory=list)


async def run(options: Options) -> Result:
    """Measure each stage's steps of a prompt on its own, and the whole pipeline, in turns."""
    model = bench_model(options.model, note)
    turns = Turns()
    async with AsyncExitStack() as stack:
        stages = [
            await stack.enter_async_context(
                span_child(model.folder, span, dtype=options.dtype, num_threads=1, kv_bytes=KV_BYTES)
            )
            for span in even_spans(model.num_layers, options.num_stages)
        ]
        client = await stack.enter_async_context(
            local_swarm(
                model.folder,
                num_layers=model.num_layers,
                num_stages=options.num_stages,
                dtype=options.dtype,
                num_threads=1,
                memory=NODE_MEMORY,
            )
        )
        prompts = random_prompts(model, options.repeats + 1, options.num_tokens)
        await _turn(options, client, stages, prompts.pop(), Turns())  # warms up
        for i, prompt in enumerate(prompts):
            await _turn(options, client, stages, prompt, turns)
            note(
                f"{i + 1} of {options.repeats}: first token after {turns.ttft_s[-1]:.2f} s, "
                f"ideal {ideal_s(turns.alone[-1]):.2f} s"
            )
    return _result(options, model, turns)


async def _turn(
    options: Options, client: AsyncClient, stages: Sequence[Program], prompt: list[int], turns: Turns
) -> None:
    question = {"do": "prefill", "tokens": options.num_tokens, "stages": options.num_stages}
    turns.alone.append([(await stage.ask(question, ANSWER_DEADLINE_S))["step_s"] for stage in stages])
    turns.ttft_s.append((await generate(client, prompt, NUM_GENERATED)).ttft_s)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stage.ask(question, ANSWER_DEADLINE_S)) for stage in stages]
    turns.together.append([task.result()["step_s"] for task in tasks])


def ideal_s(stages: Sequence[Sequence[float]]) -> float:
    """(m + s - 1) t of a pipeline of s stages: a prompt of m steps, each of t seconds on the slowest stage.

    Args:
        stages: seconds of each step of the prompt, by stage. t is their mean on the slowest: a chunk attends to all the
            ones before it, so that later ones take longer.
    """
    slowest = max(stages, key=sum)
    return (len(slowest) + len(stages) - 1) * fmean(slowest)


def _result(options: Options, model: BenchModel, turns: Turns) -> Result:
    compared = {
        "no other stage computing": Comparison.of([ideal_s(turn) for turn in turns.alone], turns.ttft_s),
        "all stages computing": Comparison.of([ideal_s(turn) for turn in turns.together], turns.ttft_s),
    }
    figures = [
        Figure(
            name=f"ideal, by steps with {when} / first token",
            unit=SECONDS,
            compared=found,
            goal=GOAL if i == 0 else None,
        )
        for i, (when, found) in enumerate(compared.items())
    ]
    slowest = max(turns.alone[0], key=sum)
    step_s = median(max(fmean(stage) for stage in turn) for turn in turns.alone)
    return Result(
        name="prefill",
        title=(
            f"time to the first token of {options.num_tokens} over {options.num_stages} stages, {model.title}, "
            f"{options.dtype}, medians of {options.repeats}"
        ),
        command=command_line(
            "prefill",
            dtype=options.dtype,
            tokens=options.num_tokens,
            stages=options.num_stages,
            repeats=options.repeats,
            model=options.model,
        ),
        table=figures_table(figures),
        notes=(
            (
                f"Ideal: (m + s - 1) t, s = {options.num_stages} stages; m = {len(slowest)} steps, into which the "
                f"engine cut the prompt; t = {step_s * 1e3:.1f} ms, their mean on the slowest stage."
            ),
            "t is measured in a process of its own with one thread, over the same prompt length from its first token.",
            "First token: at the client, from the request on; the swarm is `osai up`, one thread a stage.",
        ),
        figures={
            **asdict(options),
            "model": str(model.folder),
            **asdict(turns),
            "figures": [figure.as_json() for figure in figures],
        },
    )


@click.command("prefill")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=Options().dtype, show_default=True)
@count_option("--tokens", "num_tokens", Options().num_tokens, "Of the prompt.", least=2)
@count_option("--stages", "num_stages", Options().num_stages, "Of the pipeline, one thread each.")
@count_option("--repeats", "repeats", Options().repeats, "Turns.")
@model_option
@output_options
def command(**given: object) -> None:
    """Time to the first token of a long prompt over a pipeline, against the ideal of its chunks."""
    run_asked(run, Options, given)
