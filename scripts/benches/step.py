"""Bench `step`: a decode step of one engine against the speed at which this machine's memory is read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import click
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.figure import GIGABYTES_A_SECOND, MILLISECONDS, Figure, Goal, figures_table
from scripts.benches.program import Program
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison
from scripts.benches.span_child import span_child

from osai.core.layers import LayerRange

BATCHES = (1, 4, 16)
KV_BYTES = 768 * 2**20  # 16 sessions of some hundred tokens in float32 fit twice
ANSWER_DEADLINE_S = 300.0
ITEM_BYTES = {"bfloat16": 2, "float32": 4}
READ_GOALS = {"bfloat16": Goal(bar=0.80, aim=0.95), "float32": Goal(bar=0.60, aim=0.75)}
BATCH_GOALS = {4: Goal(bar=1.5, aim=1.2, at_most=True), 16: Goal(bar=2.0, aim=1.3, at_most=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        dtypes: each in a process of its own, one after the other.
        num_steps: in each turn of each batch; their median counts.
        repeats: turns; in each the memory is read, then the batches are run.
        num_threads: torch threads of the engine, and threads that read the memory.
        context: tokens of each session before its first step.
    """

    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    num_steps: int = 30
    repeats: int = 7
    num_threads: int = 1
    context: int = 128
    model: Path | None = None


@dataclass(slots=True, kw_only=True)
class Turns:
    """Samples of one dtype, one a turn.

    Attributes:
        read: bytes a second of each way to read the memory.
        step_s: median seconds of a step, by number of sessions.
    """

    read: list[Mapping[str, float]] = field(default_factory=list)
    step_s: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in BATCHES})

    @property
    def best_way(self) -> str:
        """The way with the highest median speed, which is this machine's."""
        return max(self.read[0], key=lambda way: median(turn[way] for turn in self.read))


async def run(options: Options) -> Result:
    """Measure each dtype."""
    model = bench_model(options.model, note)
    found = {dtype: await _measure(options, model, dtype) for dtype in options.dtypes}
    figures = [
        figure
        for dtype, turns in found.items()
        for figure in dtype_figures(dtype, turns, sum(model.linear_weights) * ITEM_BYTES[dtype])
    ]
    return _result(options, model, found, figures)


async def _measure(options: Options, model: BenchModel, dtype: str) -> Turns:
    layers, turns = LayerRange(0, model.num_layers), Turns()
    async with span_child(
        model.folder, layers, dtype=dtype, num_threads=options.num_threads, kv_bytes=KV_BYTES
    ) as child:
        await _turn(options, child, Turns())  # prompts are run, buffers made
        for i in range(options.repeats):
            await _turn(options, child, turns)
            steps = ", ".join(f"{count}: {times[-1] * 1e3:.1f} ms" for count, times in turns.step_s.items())
            note(f"{dtype}, {i + 1} of {options.repeats}: {max(turns.read[-1].values()) / 1e9:.1f} GB/s; {steps}")
    return turns


async def _turn(options: Options, child: Program, turns: Turns) -> None:
    answer = await child.ask({"do": "read"}, ANSWER_DEADLINE_S)
    turns.read.append(answer["bytes_per_s"])
    for count, times in turns.step_s.items():
        question = {"do": "decode", "sessions": count, "context": options.context, "steps": options.num_steps}
        answer = await child.ask(question, ANSWER_DEADLINE_S)
        times.append(median(answer["step_s"]))


def dtype_figures(dtype: str, turns: Turns, weight_bytes: int) -> list[Figure]:
    """The figures of one dtype; `weight_bytes` are those that a step reads."""
    one = turns.step_s[1]
    way = turns.best_way
    read = Comparison.of([weight_bytes / time_s for time_s in one], [turn[way] for turn in turns.read])
    figures = [
        Figure(
            name=f"{dtype}, weights read at batch 1 / memory read",
            unit=GIGABYTES_A_SECOND,
            compared=read,
            goal=READ_GOALS.get(dtype),
        )
    ]
    for count in BATCHES[1:]:
        goal = BATCH_GOALS[count] if count == 16 or dtype == "float32" else None
        compared = Comparison.of(turns.step_s[count], one)
        name = f"{dtype}, step of {count} sessions / of 1"
        figures.append(Figure(name=name, unit=MILLISECONDS, compared=compared, goal=goal))
    return figures


def _result(options: Options, model: BenchModel, found: Mapping[str, Turns], figures: list[Figure]) -> Result:
    ways = {
        dtype: {way: median(turn[way] for turn in turns.read) / 1e9 for way in turns.read[0]}
        for dtype, turns in found.items()
    }
    cores = "one thread" if options.num_threads == 1 else f"{options.num_threads} threads"
    return Result(
        name="step",
        title=f"a decode step of one engine, {model.title}, {cores}, medians of {options.repeats}",
        command=command_line(
            "step",
            dtypes=",".join(options.dtypes),
            steps=options.num_steps,
            repeats=options.repeats,
            threads=options.num_threads,
            context=options.context,
            model=options.model,
        ),
        table=figures_table(figures),
        notes=(
            f"Weights: of all linear layers, the LM head among them. Sessions of {options.context} tokens with KV.",
            "A step is the engine thread's, sampling with it; the next one's rows wait already when it ends.",
            "Memory read: the fastest of several ways to go once over 256 MiB on huge pages, in the same process: "
            + "; ".join(
                f"{dtype}: " + ", ".join(f"{way} {speed:.1f}" for way, speed in speeds.items())
                for dtype, speeds in ways.items()
            )
            + " GB/s.",
            f"In turns: memory, then {options.num_steps} steps of {', '.join(map(str, BATCHES))} sessions.",
        ),
        figures={
            **asdict(options),
            "model": str(model.folder),
            "read_gb_per_s": ways,
            "step_s": {dtype: turns.step_s for dtype, turns in found.items()},
            "figures": [figure.as_json() for figure in figures],
        },
    )


def _dtypes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in value.split(","))
    if not set(parts) <= ITEM_BYTES.keys():
        raise click.BadParameter(f"{value!r}: choose of {', '.join(ITEM_BYTES)}", context, parameter)
    return parts


@click.command("step")
@click.option("--dtypes", default=",".join(Options().dtypes), show_default=True, callback=_dtypes)
@count_option("--steps", "num_steps", Options().num_steps, "Steps of each batch in a turn.", least=2)
@count_option("--repeats", "repeats", Options().repeats, "Turns.")
@count_option("--threads", "num_threads", Options().num_threads, "Torch threads, and threads that read the memory.")
@count_option("--context", "context", Options().context, "Tokens of each session.")
@model_option
@output_options
def command(**given: object) -> None:
    """Decode steps of one engine: weights read a second against the memory's speed, many sessions against one."""
    run_asked(run, Options, given)
