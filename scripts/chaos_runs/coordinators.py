"""Coordinators that are killed with sessions running: one of two, and the only one, which is started again."""

import asyncio
import random

from scripts.chaos_runs.arena import Arena, Experiment, Verdict
from scripts.chaos_runs.asked import greedy_and_sampled
from scripts.chaos_runs.generation import running
from scripts.chaos_runs.swarm import Shape

from osai.core.errors import UnavailableError

NUM_TOKENS = 800
NUM_PROMPT_TOKENS = (20, 500)


async def taken_over(arena: Arena, draw: random.Random) -> Verdict:
    """Kill the coordinator that runs the sessions; the other one goes on with them."""
    return await _strike(arena, draw, is_restarted=False)


async def restarted(arena: Arena, draw: random.Random) -> Verdict:
    """Kill the only coordinator, and start it again."""
    return await _strike(arena, draw, is_restarted=True)


async def _strike(arena: Arena, draw: random.Random, *, is_restarted: bool) -> Verdict:
    asked = greedy_and_sampled(draw, draw.randint(*NUM_PROMPT_TOKENS), NUM_TOKENS)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        await generations[0].reach(draw.randint(1, NUM_TOKENS // 2))
        swarm = arena.swarm
        victim = next(name for name in swarm.coordinators if swarm.address_of(name) == arena.client.address)
        fault_s = asyncio.get_running_loop().time()
        await swarm.kill(victim)
        if is_restarted:
            await swarm.restart(victim)
        back_s = asyncio.get_running_loop().time()
        if len(generations[0].token_ids) == NUM_TOKENS:
            raise UnavailableError("the sessions had ended before: nothing was tried")
    problems = await arena.problems(generations)
    return Verdict(
        problems=problems,
        pause_s=generations[0].pause_s(fault_s),
        notes={"restart_s": back_s - fault_s, "reroutes": len(generations[0].rerouted)},
    )


EXPERIMENTS = (
    Experiment(
        name="coordinator-other",
        num_runs=100,
        shape=Shape(num_coordinators=2),
        run=taken_over,
        bar="sessions go on, identical",
    ),
    Experiment(name="coordinator-restart", num_runs=100, shape=Shape(), run=restarted, bar="sessions go on, identical"),
)
