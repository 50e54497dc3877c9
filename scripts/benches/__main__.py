"""The command line of `scripts/bench`."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvloop
from scripts.benches import hop, single
from scripts.benches.contention import CpuUse, cores_of_others
from scripts.benches.machine import Machine
from scripts.benches.report import Result, Run, write_json

from osai.core.errors import CancelledError
from osai.core.logs import configure_logs
from osai.core.reporting import ReportingGroup

Bench = Callable[[], Awaitable[Result]]

SINGLE, HOP = single.Options(), hop.Options()  # the defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How figures are given: as Markdown or as plain text, and in `json_file` too where there is one."""

    markdown: bool
    json_file: Path | None


def _counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is no list of counts; write them as 2,4", context, parameter)
    return tuple(int(part) for part in parts)


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of Output."""
    as_markdown = click.option("--markdown", is_flag=True, help="Print as in docs/benchmarks.md.")
    kind = click.Path(path_type=Path, dir_okay=False)
    as_json = click.option("--json", "json_file", metavar="FILE", type=kind, help="Write all figures there too.")
    return as_markdown(as_json(command))


@click.group(cls=ReportingGroup)
def main() -> None:
    """Measure osai and a baseline in one run. Nothing is judged: the exit status is 0 if it ran."""
    configure_logs("warning")


@main.command("single")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=SINGLE.dtype, show_default=True)
@click.option("--stages", metavar="2,4", default=",".join(map(str, SINGLE.stages)), show_default=True, callback=_counts)
@click.option("--tokens", type=click.IntRange(2, 4000), default=SINGLE.num_tokens, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=SINGLE.repeats, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=SINGLE.num_threads, show_default=True)
@output_options
def single_command(
    *,
    dtype: str,
    stages: tuple[int, ...],
    tokens: int,
    repeats: int,
    threads: int,
    **output: Any,  # noqa: ANN401
) -> None:
    """Decode speed of one stream: swarms of so many stages against transformers' generate() in one process.

    --threads is the number of torch threads of the baseline, and of each stage.
    """
    options = single.Options(dtype=dtype, stages=stages, num_tokens=tokens, repeats=repeats, num_threads=threads)
    run_benches([lambda: single.run(options)], Output(**output))


@main.command("hop")
@click.option("--round-trips", type=click.IntRange(1, 100_000), default=HOP.num_round_trips, show_default=True)
@output_options
def hop_command(*, round_trips: int, **output: Any) -> None:  # noqa: ANN401
    """Time that the edge between two nodes adds to a decode frame, against bare TCP."""
    run_benches([lambda: hop.run(hop.Options(num_round_trips=round_trips))], Output(**output))


@main.command("all")
@output_options
def all_command(**output: Any) -> None:  # noqa: ANN401
    """Every bench with its defaults, one after the other."""
    run_benches([lambda: single.run(SINGLE), lambda: hop.run(HOP)], Output(**output))


def run_benches(benches: Sequence[Bench], output: Output) -> None:
    """Run benches one after the other, and print the figures of each as soon as they are there."""
    machine = Machine.look()
    runs: list[Run] = []
    for bench in benches:
        before = CpuUse.look()
        result = uvloop.run(_until_stopped(bench))
        run = Run(result=result, machine=machine, cores_of_others=cores_of_others(before, CpuUse.look()))
        click.echo(("\n" if runs else "") + (run.markdown() if output.markdown else run.plain()))
        runs.append(run)
    if output.json_file is not None:
        write_json(output.json_file, machine, runs)


async def _until_stopped(bench: Bench) -> Result:
    """Run a bench; SIGTERM ends it as Ctrl-C does, so that what it started is stopped."""
    task = asyncio.ensure_future(bench())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError as e:
        raise CancelledError("stopped by a signal before it had measured everything") from e


if __name__ == "__main__":
    main(prog_name="scripts/bench")
