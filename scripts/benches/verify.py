"""Bench `verify`: how fast weights are read and verified, against the slower of disk and SHA-256."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from scripts.benches.bench_model import bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.figure import GIGABYTES_A_SECOND, SECONDS, Figure, Goal, figures_table
from scripts.benches.program import running
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison
from scripts.benches.verify_child import num_threads

GOAL = Goal(bar=0.8, aim=0.9)
TURN_DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured; `repeats`: turns of each way."""

    repeats: int = 5
    model: Path | None = None


@dataclass(slots=True, kw_only=True)
class Turns:
    """Bytes a second, one sample a turn."""

    disk: list[float] = field(default_factory=list)
    sha256: list[float] = field(default_factory=list)
    one_sha256: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    sha256_cpu_s: list[float] = field(default_factory=list)
    warm_cpu_s: list[float] = field(default_factory=list)
    cold_cpu_s: list[float] = field(default_factory=list)
    bare_cpu_s: list[float] = field(default_factory=list)


async def run(options: Options) -> Result:
    """Measure each way in turns."""
    model = bench_model(options.model, note)
    turns, num_bytes, show = Turns(), 0, GIGABYTES_A_SECOND.show
    async with running("the loader", "scripts.benches.verify_child", str(model.folder)) as child:
        for i in range(options.repeats):
            found = await child.ask({"do": "turn"}, TURN_DEADLINE_S)
            num_bytes = int(found["num_bytes"])
            for name in ("disk", "sha256", "one_sha256", "cold", "warm", "bare"):
                getattr(turns, name).append(float(found["rates"][name]))
            for name in ("sha256", "warm", "cold", "bare"):
                getattr(turns, f"{name}_cpu_s").append(float(found["cpu_s"][name]))
            bound = f"disk {show(turns.disk[-1])}, SHA-256 {show(turns.one_sha256[-1])}"
            note(f"{i + 1} of {options.repeats}: {show(turns.cold[-1])} verified; {bound}")
    return _result(options, model.title, turns, num_bytes)


def _result(options: Options, title: str, turns: Turns, num_bytes: int) -> Result:
    bound = [min(pair) for pair in zip(turns.disk, turns.one_sha256, strict=True)]
    tight = [min(pair) for pair in zip(turns.disk, turns.sha256, strict=True)]
    named = {
        "verified load / slower of disk and SHA-256 in one thread": (turns.cold, bound, GOAL),
        f"verified load / slower of disk and SHA-256 in {num_threads()}": (turns.cold, tight, None),
        f"the same in the page cache / SHA-256 in {num_threads()}": (turns.warm, turns.sha256, None),
        f"verified load / bare reading and hashing in {num_threads()}": (turns.cold, turns.bare, None),
        "bare reading and hashing / slower of disk and SHA-256 in one thread": (turns.bare, bound, None),
    }
    figures = [
        Figure(name=name, unit=GIGABYTES_A_SECOND, compared=Comparison.of(mine, other), goal=goal)
        for name, (mine, other, goal) in named.items()
    ]
    for name, mine, other in (
        ("CPU time of SHA-256 / of the load in the page cache", turns.sha256_cpu_s, turns.warm_cpu_s),
        ("CPU time of the load / of bare reading and hashing", turns.cold_cpu_s, turns.bare_cpu_s),
    ):
        figures.append(Figure(name=name, unit=SECONDS, compared=Comparison.of(mine, other)))
    return Result(
        name="verify",
        title=f"reading and verifying the {num_bytes / 1e6:.0f} MB of a {title} out of a folder",
        command=command_line("verify", repeats=options.repeats, model=options.model),
        table=figures_table(figures),
        notes=(
            f"Disk: the same ranges with pread in {num_threads()} threads, into memory that is used again.",
            f"Load: in {num_threads()} threads, as transformers' loader has it on this machine, into new memory.",
            "SHA-256: as many bytes out of memory.",
            "Bare: preadv into a new tensor's memory, and hashlib there, without osai: what this machine allows.",
            "Cold: the files are taken out of this machine's page cache (posix_fadvise).",
            "A virtual machine's host may still have them in memory: then its disk is that fast, for both sides.",
        ),
        figures={**asdict(options), **asdict(turns), "figures": [figure.as_json() for figure in figures]},
    )


@click.command("verify")
@count_option("--repeats", "repeats", Options().repeats, "Turns of each way.")
@model_option
@output_options
def command(**given: object) -> None:
    """Speed of reading and verifying weights, against the slower of disk and SHA-256."""
    run_asked(run, Options, given)
