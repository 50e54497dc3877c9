"""Bench `gpu`: weights read a second in a span's decode step on a GPU, against a copy within its memory."""

from dataclasses import asdict, dataclass, field
from math import prod
from statistics import median

import click
import torch
import transformers as tf
from scripts.benches.cli import NotHereError, command_line, count_option, output_options, run_asked
from scripts.benches.figure import GIGABYTES_A_SECOND, MILLISECONDS, Figure, Goal, figures_table
from scripts.benches.gpu_parts import NUM_COPIES, Copier, RandomTensors, span_shapes
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison
from scripts.benches.span_steps import SpanSteps, hosted

from osai.core.layers import LayerRange
from osai.node.engine.options import EngineOptions
from osai.node.engine.span_model import load_span

NUM_WARM_UP_STEPS = 30  # kernels are chosen, graphs captured
ITEM_BYTES = 2  # of bfloat16
GOAL = Goal(bar=0.6, aim=0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured; the sizes are those of Llama 3.1 8B.

    Attributes:
        device: as torch names it; anything but a GPU is for trying the bench.
        num_layers: of the span, from the middle of a model.
        sessions: how many in a step, 1 first.
        num_steps: in each turn.
        copy_mib: of the buffer that is copied; many times a GPU's cache.
        kv_mib: of KV for the span.
    """

    device: str = "cuda:0"
    num_layers: int = 4
    sessions: tuple[int, ...] = (1, 8, 16, 64)
    num_steps: int = 200
    repeats: int = 7
    context: int = 128
    copy_mib: int = 2048
    kv_mib: int = 4096
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_heads: int = 32
    num_kv_heads: int = 8


@dataclass(slots=True, kw_only=True)
class Turns:
    """Samples, one a turn.

    Attributes:
        copies: bytes a second, read and written.
        step_s: median seconds of a step, by number of sessions.
        interval_s: of one session, from one step's results to the next's; the median.
    """

    step_s: dict[int, list[float]]
    copies: list[float] = field(default_factory=list)
    interval_s: list[float] = field(default_factory=list)


async def run(options: Options) -> Result:
    """Measure copies and steps in turns.

    Raises:
        NotHereError: if a GPU is wanted and there is none.
    """
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise NotHereError("bench gpu: torch sees no GPU on this machine")
    layers = LayerRange(1, 1 + options.num_layers)
    config = tf.LlamaConfig(
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.num_layers + 2,
        num_attention_heads=options.num_heads,
        num_key_value_heads=options.num_kv_heads,
        vocab_size=128,  # a span from the middle has neither embedding nor LM head
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    shapes = span_shapes(config, layers)
    weight_bytes = ITEM_BYTES * sum(prod(shape) for shape in shapes.values() if len(shape) == 2)
    model = load_span(
        config.to_dict(),
        RandomTensors(shapes, options.device),
        layers,
        dtype=torch.bfloat16,
        device=options.device,
    )
    turns = Turns(step_s={count: [] for count in options.sessions})
    async with hosted(model, options.kv_mib * 2**20, EngineOptions()) as steps:
        sessions = await _open(options, steps)
        for count in options.sessions:
            await steps.decode(sessions[:count], options.context, NUM_WARM_UP_STEPS, held=count > 1)
        copier = Copier(options.device, options.copy_mib * 2**20)
        for i in range(options.repeats):
            turns.copies.append(copier.bytes_per_s())
            for count, found in turns.step_s.items():
                times = await steps.decode(sessions[:count], options.context, options.num_steps, held=count > 1)
                found.append(median(times.step_s))
                if count == 1:
                    turns.interval_s.append(median(times.interval_s))
            shown = ", ".join(f"{count}: {found[-1] * 1e3:.2f} ms" for count, found in turns.step_s.items())
            note(f"{i + 1} of {options.repeats}: copy {turns.copies[-1] / 1e9:.0f} GB/s; {shown}")
    return _result(options, weight_bytes, turns)


async def _open(options: Options, steps: SpanSteps) -> list[int]:
    room = options.context + max(options.num_steps, NUM_WARM_UP_STEPS) + 64  # some rounds may not count
    sessions = [await steps.open(options.context, room) for _ in range(max(options.sessions))]
    for session in sessions:
        await steps.prefill(session, options.context)
    return sessions


def _figures(weight_bytes: int, turns: Turns) -> list[Figure]:
    first, *others = turns.step_s
    step_s = turns.step_s
    read = {"of a step": (step_s[first], GOAL), "from one step's results to the next's": (turns.interval_s, None)}
    figures = [
        Figure(
            name=f"weights read at batch {first}, {what} / copy",
            unit=GIGABYTES_A_SECOND,
            compared=Comparison.of([weight_bytes / time_s for time_s in times], turns.copies),
            goal=goal,
        )
        for what, (times, goal) in read.items()
    ]
    return figures + [
        Figure(
            name=f"step of {count} sessions / of {first}",
            unit=MILLISECONDS,
            compared=Comparison.of(step_s[count], step_s[first]),
        )
        for count in others
    ]


def _result(options: Options, weight_bytes: int, turns: Turns) -> Result:
    figures = _figures(weight_bytes, turns)
    on_gpu = options.device.startswith("cuda")
    name = torch.cuda.get_device_name(options.device) if on_gpu else options.device
    return Result(
        name="gpu",
        title=(
            f"decode steps of {options.num_layers} layers of hidden size {options.hidden_size} on {name}, bfloat16, "
            f"medians of {options.repeats}"
        ),
        command=command_line(
            "gpu",
            device=options.device,
            layers=options.num_layers,
            steps=options.num_steps,
            repeats=options.repeats,
        ),
        table=figures_table(figures),
        notes=(
            (
                f"{weight_bytes / 1e9:.2f} GB of weights in linear layers, random. Sessions of {options.context} "
                "tokens with KV. A step is the engine thread's, its hidden states on the host at its end."
            ),
            (
                f"Copy: {options.copy_mib} MiB within the device's memory, read and written, the best of "
                f"{NUM_COPIES}. The two take turns."
            ),
        ),
        figures={
            **asdict(options),
            "device_name": name,
            "weight_bytes": weight_bytes,
            **asdict(turns),
            "figures": [figure.as_json() for figure in figures],
        },
    )


@click.command("gpu")
@click.option("--device", default=Options().device, show_default=True, help="As torch names it.")
@count_option("--layers", "num_layers", Options().num_layers, "Of the span.")
@count_option("--steps", "num_steps", Options().num_steps, "In each turn.", least=2)
@count_option("--repeats", "repeats", Options().repeats, "Turns.")
@output_options
def command(**given: object) -> None:
    """Weights read a second in a span's decode step on a GPU, against a copy within its memory."""
    run_asked(run, Options, given)
