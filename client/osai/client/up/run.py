"""`osai up` from its plan to its exit status."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from osai.client.up.interrupts import interrupts
from osai.client.up.members import wait_for_members
from osai.client.up.plan import Programs, SwarmPlan
from osai.client.up.report import as_json, follow, note, print_ready
from osai.client.up.swarm import Confirm, Deadlines, LocalSwarm


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `lost`: whether a process ended before it was asked to."""

    exit_status: int
    lost: bool = False


async def run_swarm(
    plan: SwarmPlan,
    folder: Path,
    *,
    json_output: bool = False,
    verbose: bool = False,
    programs: Programs | None = None,
    confirm: Confirm = wait_for_members,
    deadlines: Deadlines | None = None,
) -> Outcome:
    """Run a local swarm in the foreground until SIGINT or SIGTERM.

    Args:
        plan: what to run.
        folder: an existing folder, for state and logs.
        json_output: print one JSON line when ready in place of the table.
        verbose: pass the logs on to standard error.
        programs: how coordinator and nodes are started.
        confirm: see LocalSwarm.
        deadlines: see LocalSwarm.

    Returns:
        Its exit status, 0 if it was ready before it was stopped, and whether a process was lost on the way.

    Raises:
        SetupError: if it can't start, or every process has ended.
    """
    swarm = LocalSwarm(plan, folder, programs or Programs(), confirm, deadlines or Deadlines())
    following = asyncio.create_task(follow(swarm.logs if verbose else {}))
    try:
        with interrupts() as asked:
            async with swarm.guarded(asked):
                ready = await asked.unless_stopped(swarm.start())
                if ready is None:
                    note("stopped before it was ready")
                    return Outcome(exit_status=asked.exit_status)
                if json_output:
                    click.echo(as_json(*ready))
                else:
                    print_ready(plan.model_id, *ready)
                await asked.unless_stopped(swarm.watch())
                note("stopping")
                return Outcome(exit_status=0, lost=swarm.lost)
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
