"""What the commands of `scripts/bench` share: options, and running a bench and printing its figures."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop
from scripts.benches.contention import CpuUse, cores_of_others
from scripts.benches.machine import Machine
from scripts.benches.report import Result, Run, note, write_json
from scripts.benches.stoppable import until_stopped

from osai.core.errors import SetupError

Bench = Callable[[], Coroutine[Any, Any, Result]]
Command = TypeVar("Command", bound=Callable[..., None])
Options = TypeVar("Options")


class NotHereError(SetupError):
    """What a bench needs is not on this machine; `all` goes on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How figures are given: as Markdown or as plain text, and in `json_file` too where there is one."""

    markdown: bool
    json_file: Path | None


def output_options(command: Command) -> Command:
    """Give a command the options of Output."""
    as_markdown = click.option("--markdown", is_flag=True, help="Print as in docs/benchmarks.md.")
    kind = click.Path(path_type=Path, dir_okay=False)
    as_json = click.option("--json", "json_file", metavar="FILE", type=kind, help="Write all figures there too.")
    return as_markdown(as_json(command))


def model_option(command: Command) -> Command:
    """Give a command the option --model."""
    kind = click.Path(path_type=Path, file_okay=False, exists=True)
    text = "Checkpoint to measure with, of Llama's layout; default: the benches' own."
    return click.option("--model", metavar="DIR", type=kind, help=text)(command)


def count_option(name: str, field: str, default: int, text: str, *, least: int = 1) -> Callable[[Command], Command]:
    """An option that is a whole number, for a field of a bench's options."""
    return click.option(name, field, type=click.IntRange(least), default=default, show_default=True, help=text)


def counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Read `2,4`: a callback of an option."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is no list of counts; write them as 2,4", context, parameter)
    return tuple(int(part) for part in parts)


def command_line(name: str, **options: object) -> str:
    """What repeats a bench; options that are None are left out."""
    given = [f"--{option.replace('_', '-')} {value}" for option, value in options.items() if value is not None]
    return " ".join([f"scripts/bench {name}", *given])


def run_asked(
    run: Callable[[Options], Coroutine[Any, Any, Result]], kind: Callable[..., Options], given: dict[str, Any]
) -> None:
    """Run one bench and print its figures; `given` has the fields of its options and those of Output."""
    output = Output(markdown=given.pop("markdown"), json_file=given.pop("json_file"))
    options = kind(**given)
    run_benches([lambda: run(options)], output)


def run_benches(benches: Sequence[Bench], output: Output, *, skips: bool = False) -> None:
    """Run benches one after the other, and print the figures of each as soon as they are there.

    Args:
        benches: what to run.
        output: how figures are given.
        skips: whether a bench that can't be run on this machine is told of and left out.

    Raises:
        NotHereError: if a bench can't be run on this machine, and none is left out.
    """
    machine = Machine.look()
    runs: list[Run] = []
    for bench in benches:
        before = CpuUse.look()
        try:
            result = uvloop.run(until_stopped(bench()))
        except NotHereError as e:
            if not skips:
                raise
            note(f"left out: {e.message}")
            continue
        run = Run(result=result, machine=machine, cores_of_others=cores_of_others(before, CpuUse.look()))
        click.echo(("\n" if runs else "") + (run.markdown() if output.markdown else run.plain()))
        runs.append(run)
    if output.json_file is not None:
        write_json(output.json_file, machine, runs)
