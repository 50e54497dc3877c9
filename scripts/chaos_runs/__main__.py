"""The command line of `scripts/chaos`."""

from dataclasses import replace
from pathlib import Path

import click
import uvloop
from scripts.benches.stoppable import until_stopped
from scripts.chaos_runs import coordinators, kills, last_replica, leaves, partitions, soak, stops
from scripts.chaos_runs.arena import Experiment
from scripts.chaos_runs.campaign import Campaign
from scripts.chaos_runs.trust import FULL_COUNT, run_trust

from osai.core.errors import SetupError
from osai.core.logs import configure_logs
from osai.core.reporting import reporting_errors

EXPERIMENTS: tuple[Experiment, ...] = (
    *kills.EXPERIMENTS,
    *stops.EXPERIMENTS,
    *leaves.EXPERIMENTS,
    *coordinators.EXPERIMENTS,
    *last_replica.EXPERIMENTS,
    *partitions.EXPERIMENTS,
)


@click.command()
@click.option("--runs", "num_runs", type=click.IntRange(1), help="Of each experiment; default: a full campaign's.")
@click.option("--only", "names", multiple=True, metavar="NAME", help="Experiments whose names begin so. Repeatable.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first run; the next one's is one more.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all runs there too.")
@click.option("--logs", type=click.Path(path_type=Path, file_okay=False), help="Where logs go; default: a new folder.")
@click.option("--minutes", type=click.FloatRange(0.1), default=120.0, show_default=True, help="Of the soak.")
@click.option("--private", "is_private", is_flag=True, help="In private swarms: certificates, TLS, roles.")
@click.option("--trust", "num_attacks", type=click.IntRange(0), is_flag=False, flag_value=FULL_COUNT, default=0,
              metavar="[COUNT]",
              help="Make each attack of docs/security.md instead: so many odd messages (a million), a thousandth "
                   "of flipped bytes of each kind and of forged records, and those over sockets.")  # fmt: skip
@click.option("--list", "is_list", is_flag=True, help="Print the experiments, and end.")
@reporting_errors
def main(
    num_runs: int | None,
    names: tuple[str, ...],
    seed: int,
    json_file: Path | None,
    logs: Path | None,
    minutes: float,
    num_attacks: int,
    *,
    is_private: bool,
    is_list: bool,
) -> None:
    """Kill, stop and cut off members of real swarms while they generate; the exit status is 1 if anything was lost."""
    configure_logs("error")
    if num_attacks:
        run_trust(num_attacks, seed)
        return
    known = (*EXPERIMENTS, soak.experiment(minutes))
    chosen = [one for one in known if not names or any(one.name.startswith(name) for name in names)]
    if is_private:
        chosen = [replace(one, shape=replace(one.shape, is_private=True)) for one in chosen]
    if not chosen:
        raise SetupError(f"no experiment is called so; there are: {', '.join(one.name for one in known)}")
    if is_list:
        for one in chosen:
            click.echo(f"{one.name}: {one.num_runs} runs; {one.bar}")
        return
    campaign = Campaign(seed=seed, num_runs=num_runs, logs=logs)
    uvloop.run(until_stopped(campaign.run(chosen)))
    click.echo(campaign.table().plain())
    for line in campaign.failures():
        click.echo(line)
    if json_file is not None:
        campaign.write_json(json_file)
    if not campaign.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="scripts/chaos")
