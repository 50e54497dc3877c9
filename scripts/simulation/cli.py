"""The command: many seeds of one scenario, what came of them, and how to replay those that failed."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from scripts.simulation.outcome import Outcome
from scripts.simulation.scenario import NAMES, Scenario, named
from scripts.simulation.total import text, total
from scripts.simulation.world import simulate

MAX_TOLD = 8  # broken promises of one seed that are printed


class Seeds(click.ParamType[range]):
    """A:B, the seeds from A on and below B."""

    name = "A:B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """Parse."""
        begin, colon, end = str(value).partition(":")
        if not (colon and begin.isdecimal() and end.isdecimal() and int(begin) < int(end)):
            self.fail(f"{value!r} is no range; write FIRST:END, as in 0:100", param, ctx)
        return range(int(begin), int(end))


@click.command()
@click.option("--nodes", "num_nodes", type=click.IntRange(1), default=24, show_default=True, help="Volunteers.")
@click.option(
    "--minutes", type=click.FloatRange(0.01), default=2.0, show_default=True, help="For which things go wrong."
)
@click.option("--seed", type=click.IntRange(0), help="One run.")
@click.option("--seeds", type=Seeds(), help="Many runs.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes for many seeds.")
@click.option(
    "--scenario", "name", type=click.Choice(NAMES), default="mixed", show_default=True, help="What goes wrong."
)
@click.option("--churn", type=click.FloatRange(0), default=1.0, show_default=True,
              help="How many times in these minutes the usual volunteer leaves.")  # fmt: skip
@click.option(
    "--clients", "num_clients", type=click.IntRange(0), default=4, show_default=True, help="That ask on and on."
)
@click.option(
    "--coordinators", "num_coordinators", type=click.IntRange(1), default=2, show_default=True, help="Of them."
)
@click.option("--standby", is_flag=True, help="Sessions keep a follower of each stage.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the runs as PNG.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write figures.")
@click.option("--trace", is_flag=True, help="Print all that happens; for one seed.")
def main(
    num_nodes: int,
    minutes: float,
    seed: int | None,
    seeds: range | None,
    jobs: int,
    name: str,
    churn: float,
    num_clients: int,
    num_coordinators: int,
    plot: Path | None,
    json_file: Path | None,
    *,
    standby: bool,
    trace: bool,
) -> None:
    """Simulate a swarm of volunteers under failures, by seed.

    The status is 1 where a promise was broken.
    """
    logging.disable()  # production's warnings: here they are what is simulated
    scenario = replace(
        named(name, churn=churn, num_nodes=num_nodes, minutes=minutes),
        num_clients=num_clients,
        num_coordinators=num_coordinators,
        standby=standby,
    )
    chosen = seeds if seeds is not None else range(seed or 0, (seed or 0) + 1)
    outcomes = []
    for outcome in _run(scenario, chosen, jobs, keep_trace=trace):
        outcomes.append(outcome)
        _tell(outcome)
    together = total(outcomes)
    print(text(together))
    each_s = sum(os.times()[:4]) / len(outcomes)  # of this process and its children
    print(f"simulated    {len(outcomes)} seeds, {together.events} events, {each_s:.2f} s of a processor each")
    if json_file is not None:
        told = {"scenario": name, "nodes": num_nodes, "minutes": minutes, "runs": [one.as_json() for one in outcomes]}
        json_file.write_text(json.dumps(told, indent=1) + "\n")
    if plot is not None:
        from scripts.simulation.plot import draw  # noqa: PLC0415 - matplotlib takes a second, and may be missing

        draw(scenario, outcomes, plot)
    sys.exit(1 if any(outcome.broken for outcome in outcomes) else 0)


def _run(scenario: Scenario, seeds: range, jobs: int, *, keep_trace: bool) -> Iterator[Outcome]:
    one = partial(simulate, scenario, keep_trace=keep_trace)
    if jobs == 1 or len(seeds) == 1:
        yield from map(one, seeds)
        return
    with ProcessPoolExecutor(jobs, initializer=logging.disable) as pool:
        yield from pool.map(one, seeds)


def _tell(outcome: Outcome) -> None:
    for line in outcome.lines:
        print(line)
    for line in outcome.broken[:MAX_TOLD]:
        print(f"seed {outcome.seed}: {line}")
    if outcome.broken:
        print(
            f"seed {outcome.seed} broke {len(outcome.broken)} promises; replay it with: {replay_command(outcome.seed)}"
        )


def replay_command(seed: int) -> str:
    """The command that runs one seed of this command's scenario, with all that happens."""
    kept, skip = [], False
    for word in sys.argv[1:]:
        option = word.partition("=")[0]
        if not skip and option not in ("--seed", "--seeds", "--jobs", "--plot", "--json", "--trace"):
            kept.append(word)
        skip = not skip and option in ("--seed", "--seeds", "--jobs", "--plot", "--json") and "=" not in word
    return " ".join(("scripts/simulate", *kept, "--seed", str(seed), "--trace"))
