"""The `osai-node bench` command."""

import json

import click
import uvloop
from rich.console import Console

from osai.core.embedded import MODEL_ID
from osai.core.layers import LayerRange
from osai.core.logs import configure_logs
from osai.node.cores import default_num_threads
from osai.node.machine import prepare_cores

EXAMPLES = """
\b
Examples:
  # the model that comes along
  osai-node bench
  # a node's share of a larger one, as it would run it
  osai-node bench --weights /models/model --span 8:16 --sessions 1,8,32 --context 1024 --quantize int8
"""


class _Counts(click.ParamType[tuple[int, ...]]):
    """Positive whole numbers, separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r}: write whole numbers above 0, as in 1,4,16", param, ctx)
        return tuple(int(part) for part in parts)


@click.command(epilog=EXAMPLES)
@click.option("--model", default="", help=f"The model's name in the report; default: {MODEL_ID}, which comes along.")
@click.option("--weights", default="", help="Folder of its checkpoint.")
@click.option("--span", default=None, help="Layers START:END; default: all.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="auto (the checkpoint's), float32, bfloat16, float16.")
@click.option("--quantize", default="none", show_default=True, type=click.Choice(["none", "int8", "int4", "fp8"]))
@click.option("--threads", type=click.IntRange(min=1), default=None, help="Torch's threads; default: one a core.")
@click.option(
    "--numa", type=click.IntRange(min=0), default=None, help="Run on this NUMA node's cores and memory alone."
)
@click.option("--sessions", type=_Counts(), default=(1, 4, 16), show_default="1,4,16", help="Sessions in a step.")
@click.option("--context", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens of each session.")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Steps measured for each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    model: str,
    weights: str,
    span: str | None,
    device: str,
    dtype: str,
    quantize: str,
    threads: int | None,
    numa: int | None,
    sessions: tuple[int, ...],
    context: int,
    steps: int,
    as_json: bool,
) -> None:
    """Measure a span on this machine, without a swarm: where does a decode step's time go?"""
    configure_logs("warning")
    layers = LayerRange.parse(span) if span else None
    prepare_cores(numa)
    from osai.node.bench import BenchOptions, run_bench  # noqa: PLC0415  brings torch, which --help must not wait for

    options = BenchOptions(
        model=model or weights or MODEL_ID,
        weights=weights,
        layers=layers,
        device=device,
        dtype=dtype,
        quantization=quantize,
        num_threads=threads or default_num_threads(),
        sessions=sessions,
        context=context,
        num_steps=steps,
    )
    report = uvloop.run(run_bench(options))
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        Console().print(report.to_table())
