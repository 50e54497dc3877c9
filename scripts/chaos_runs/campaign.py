"""Runs experiments, one swarm for all that want the same, and keeps what each run showed."""

import asyncio
import json
import random
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import click
from scripts.benches.samples import percentile
from scripts.benches.table import Table
from scripts.chaos_runs.arena import Arena, Experiment, PrefillTimes, Verdict, measure_prefill
from scripts.chaos_runs.model import ChaosModel, chaos_model
from scripts.chaos_runs.swarm import Shape, chaos_swarm
from scripts.chaos_runs.undisturbed import Undisturbed, undisturbed

from osai.client import AsyncClient
from osai.core.errors import OsaiError, SetupError

HEADER = ("experiment", "runs", "passed", "p50 pause", "p95 pause", "bar at p95", "verdict")
Broken = (OsaiError, TimeoutError, OSError, ExceptionGroup)


@dataclass(slots=True, kw_only=True)
class Ran:
    """One run of one experiment."""

    experiment: Experiment
    seed: int
    folder: Path
    verdict: Verdict

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {"experiment": self.experiment.name, "seed": self.seed, "logs": str(self.folder), **asdict(self.verdict)}


@dataclass(slots=True, kw_only=True)
class Campaign:
    """Many runs.

    Attributes:
        seed: of each experiment's first run.
        num_runs: of each experiment; None for its own number.
        logs: folder that takes a folder for each swarm; None for a new one.
    """

    seed: int
    num_runs: int | None = None
    logs: Path | None = None
    ran: list[Ran] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every experiment did."""
        return all(_passed(runs) for _, runs in self._by_experiment())

    async def run(self, experiments: Sequence[Experiment]) -> None:
        """Run each as often as asked."""
        folder = self.logs or Path(tempfile.mkdtemp(prefix="osai-chaos-"))
        folder.mkdir(parents=True, exist_ok=True)
        model = await asyncio.to_thread(chaos_model, folder)
        async with undisturbed(model.folder) as truth:
            for shape, group in groupby(experiments, lambda one: one.shape):
                due = [(one, self.seed + i) for one in group for i in range(_num_runs(one, self.num_runs))]
                while due:
                    place = folder / f"swarm-{len(list(folder.glob('swarm-*')))}"
                    due = await self._run_on(shape, model, truth, place, due)

    def table(self) -> Table:
        """One line an experiment."""
        return Table(header=HEADER, rows=tuple(_row(one, runs) for one, runs in self._by_experiment()))

    def failures(self) -> list[str]:
        """What failed, and how to look into it."""
        return [
            f"FAILED {ran.experiment.name} --seed {ran.seed} (logs in {ran.folder}): {'; '.join(ran.verdict.problems)}"
            for ran in self.ran
            if ran.verdict.problems
        ]

    def write_json(self, file: Path) -> None:
        """All runs.

        Raises:
            SetupError: if it can't be written.
        """
        try:
            file.write_text(json.dumps([ran.as_json() for ran in self.ran], indent=2) + "\n")
        except OSError as e:
            raise SetupError(f"can't write {file} ({e.strerror}): choose another file for --json") from e

    async def _run_on(
        self, shape: Shape, model: ChaosModel, truth: Undisturbed, place: Path, due: list[tuple[Experiment, int]]
    ) -> list[tuple[Experiment, int]]:
        """Run what is due on one swarm, until all is done or the swarm is broken; what is left."""
        click.echo(f"chaos: starting a swarm; its logs are in {place}", err=True)
        async with AsyncExitStack() as stack:
            draw = random.Random(self.seed)  # noqa: S311 - not for secrets
            swarm = await stack.enter_async_context(chaos_swarm(shape, model, place, draw))
            client = await stack.enter_async_context(AsyncClient(swarm.addresses))
            needs_prefill = any(experiment.needs_prefill for experiment, _ in due)
            prefill = await measure_prefill(client, draw) if needs_prefill else PrefillTimes()
            arena = Arena(swarm=swarm, client=client, undisturbed=truth, prefill=prefill)
            for i, (experiment, seed) in enumerate(due, 1):
                ran = Ran(experiment=experiment, seed=seed, folder=place, verdict=await _run(arena, experiment, seed))
                self.ran.append(ran)
                is_whole = i == len(due) or await _heal(arena, ran.verdict)
                click.echo(f"chaos: {_told(ran)}", err=True)
                if not is_whole:
                    return due[i:]
        return []

    def _by_experiment(self) -> list[tuple[Experiment, list[Ran]]]:
        found: dict[str, list[Ran]] = {}
        for ran in self.ran:
            found.setdefault(ran.experiment.name, []).append(ran)
        return [(runs[0].experiment, runs) for runs in found.values()]


def _num_runs(experiment: Experiment, asked: int | None) -> int:
    return experiment.num_runs if asked is None or experiment.num_runs == 1 else asked


async def _run(arena: Arena, experiment: Experiment, seed: int) -> Verdict:
    draw = random.Random(f"{experiment.name} {seed}")  # noqa: S311 - not for secrets
    for name, member in arena.swarm.members.items():
        member.mark(f"{experiment.name} --seed {seed}: {name}")
    try:
        async with asyncio.timeout(experiment.deadline_s):
            return await experiment.run(arena, draw)
    except Broken as e:
        return Verdict(problems=[f"the run itself failed: {_causes(e)}"])


async def _heal(arena: Arena, verdict: Verdict) -> bool:
    """Make the swarm whole again; whether that worked."""
    try:
        verdict.notes["heal_s"] = await arena.swarm.heal()
    except Broken as e:
        verdict.problems.append(f"the swarm did not become whole again: {_causes(e)}")
        return False
    return True


def _causes(error: BaseException) -> str:
    return " ".join(traceback.format_exception_only(error)).strip() + (
        f" ({'; '.join(_causes(part) for part in error.exceptions)})" if isinstance(error, BaseExceptionGroup) else ""
    )


def _told(ran: Ran) -> str:
    verdict = ran.verdict
    pause = "" if verdict.pause_s is None else f", pause {verdict.pause_s:.2f} s"
    bar = "" if verdict.bar_s is None else f" of {verdict.bar_s:.2f}"
    return f"{ran.experiment.name} --seed {ran.seed}: {'; '.join(verdict.problems) or 'passed'}{pause}{bar}"


def _is_within(runs: Sequence[Ran]) -> bool:
    over = [ran.verdict.pause_s - ran.verdict.bar_s for ran in runs
            if ran.verdict.pause_s is not None and ran.verdict.bar_s is not None]  # fmt: skip
    return not over or percentile(over, 0.95) <= 0


def _passed(runs: Sequence[Ran]) -> bool:
    return not any(ran.verdict.problems for ran in runs) and _is_within(runs)


def _row(experiment: Experiment, runs: Sequence[Ran]) -> tuple[str, ...]:
    pauses = [ran.verdict.pause_s for ran in runs if ran.verdict.pause_s is not None]
    bars = [ran.verdict.bar_s for ran in runs if ran.verdict.bar_s is not None]
    return (
        experiment.name,
        str(len(runs)),
        str(sum(not ran.verdict.problems for ran in runs)),
        f"{percentile(pauses, 0.5):.2f} s" if pauses else "",
        f"{percentile(pauses, 0.95):.2f} s" if pauses else "",
        f"{experiment.bar} ({percentile(bars, 0.5):.2f} s)" if bars else experiment.bar,
        "ok" if _passed(runs) else "late" if not _is_within(runs) else "FAILED",
    )
