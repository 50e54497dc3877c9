"""The command line of `scripts/bench`."""

from typing import Any

import click
from scripts.benches import (
    batch,
    churn,
    fairness,
    gateway,
    gpu,
    hop,
    memory,
    page,
    peer,
    prefill,
    recovery,
    route,
    single,
    spread,
    step,
    verify,
    wan,
    wire,
)
from scripts.benches.cli import Bench, Output, count_option, output_options, run_asked, run_benches

from osai.core.logs import configure_logs
from osai.core.reporting import ReportingGroup

# Every bench with its defaults, in the order of `all`.
BENCHES: dict[str, Bench] = {
    "step": lambda: step.run(step.Options()),
    "single": lambda: single.run(single.Options()),
    "batch": lambda: batch.run(batch.Options()),
    "prefill": lambda: prefill.run(prefill.Options()),
    "fairness": lambda: fairness.run(fairness.Options()),
    "peer": lambda: peer.run(peer.Options()),
    "memory": lambda: memory.run(memory.Options()),
    "hop": lambda: hop.run(hop.Options()),
    "wire": lambda: wire.run(wire.Options()),
    "wan": lambda: wan.run(wan.Options()),
    "route": lambda: route.run(route.Options()),
    "recovery": lambda: recovery.run(recovery.Options()),
    "churn": lambda: churn.run(churn.Options()),
    "verify": lambda: verify.run(verify.Options()),
    "spread": lambda: spread.run(spread.Options()),
    "page": lambda: page.run(page.Options()),
    "gateway": lambda: gateway.run(gateway.Options()),
    "gpu": lambda: gpu.run(gpu.Options()),
}


@click.group(cls=ReportingGroup)
def main() -> None:
    """Measure osai and a baseline in one run. Nothing is judged: the exit status is 0 if it ran."""
    configure_logs("warning")


for module in (
    *(step, single, batch, prefill, fairness, peer, memory, wire, wan, route, recovery, churn, verify, spread, page),
    gateway,
    gpu,
):
    main.add_command(module.command)


@main.command("hop")
@count_option("--round-trips", "num_round_trips", hop.Options().num_round_trips, "On each path.")
@output_options
def hop_command(**given: object) -> None:
    """Time that the edge between two nodes adds to a decode frame, against bare TCP."""
    run_asked(hop.run, hop.Options, given)


@main.command("all")
@output_options
def all_command(**output: Any) -> None:  # noqa: ANN401
    """Every bench with its defaults, one after the other; those that this machine can't run are left out."""
    run_benches(list(BENCHES.values()), Output(**output), skips=True)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
