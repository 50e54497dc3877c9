"""What a bench gives, and how it is printed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from scripts.benches.machine import Machine
from scripts.benches.table import Table

from osai.core.errors import SetupError

MAX_QUIET_SHARE = 0.05  # of the cores; with more in others' hands medians move by more than the last digit shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One bench's figures.

    Attributes:
        name: the bench's word on the command line.
        title: what was measured, in a line.
        command: what repeats it.
        table: the figures, for people.
        notes: what a reader must know to judge them.
        figures: the same for programs; JSON values.
    """

    name: str
    title: str
    command: str
    table: Table
    notes: tuple[str, ...]
    figures: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A bench that ran.

    Attributes:
        cores_of_others: cores that anything but the bench used meanwhile, on average.
    """

    result: Result
    machine: Machine
    cores_of_others: float

    @property
    def quiet(self) -> bool:
        """Whether the bench had the machine to itself."""
        return self.cores_of_others <= MAX_QUIET_SHARE * self.machine.num_cores

    def plain(self) -> str:
        """For a terminal."""
        result = self.result
        head = [f"{result.name}: {result.title}", f"machine: {self.machine}", f"command: {result.command}"]
        return "\n".join([*head, "", result.table.plain(), "", *self._notes()])

    def markdown(self) -> str:
        """As it stands in docs/benchmarks.md."""
        result = self.result
        head = [f"### {result.name}", "", f"{result.title[0].upper()}{result.title[1:]}."]
        source = f"`{result.command}` on {self.machine}."
        return "\n".join([*head, "", source, "", result.table.markdown(), "", *self._notes()])

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {"command": self.result.command, "cores_of_others": self.cores_of_others, **self.result.figures}

    def _notes(self) -> list[str]:
        used = f"Other work took {self.cores_of_others:.1f} of the {self.machine.num_cores} cores meanwhile"
        judged = "" if self.quiet else ": not a quiet machine, so neither figures nor ratios are to be relied on"
        return [f"- {line}" for line in (*self.result.notes, f"{used}{judged}.")]


def note(text: str) -> None:
    """Tell what goes on, on standard error."""
    click.echo(f"bench: {text}", err=True)


def write_json(file: Path, machine: Machine, runs: Sequence[Run]) -> None:
    """Write all figures to a file.

    Raises:
        SetupError: if it can't be written.
    """
    found = {"machine": machine.as_json(), "benches": {run.result.name: run.as_json() for run in runs}}
    try:
        file.write_text(json.dumps(found, indent=2) + "\n")
    except OSError as e:
        raise SetupError(f"can't write {file} ({e.strerror}): choose another file for --json") from e
