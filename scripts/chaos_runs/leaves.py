"""Members that leave in good order, by SIGTERM, while sessions run: what they do is handed over before they go."""

import asyncio
import random
import signal
from collections.abc import Callable
from functools import partial

from scripts.chaos_runs.arena import Arena, Experiment, Verdict
from scripts.chaos_runs.asked import greedy_and_sampled
from scripts.chaos_runs.generation import Generation, running
from scripts.chaos_runs.swarm import Shape

NODE_PAUSE_S = 1.0  # at most: another node holds the session's KV by then
COORDINATOR_PAUSE_S = 3.0  # at most: the client dials another one
NUM_TOKENS = 1500  # some seconds of them
NUM_PROMPT_TOKENS = (20, 500)

Choice = Callable[[Arena, Generation, random.Random], str]


def any_stage(arena: Arena, generation: Generation, draw: random.Random) -> str:
    """Any stage of the session."""
    return arena.swarm.name_of(draw.choice(generation.pipeline).node_id)


def its_coordinator(arena: Arena, generation: Generation, draw: random.Random) -> str:  # noqa: ARG001 - as of Choice
    """The coordinator that runs the session."""
    swarm = arena.swarm
    return next(name for name in swarm.coordinators if swarm.address_of(name) == arena.client.address)


async def leave(arena: Arena, draw: random.Random, *, leaver: Choice, bar_s: float) -> Verdict:
    """Let a member leave while tokens come."""
    asked = greedy_and_sampled(draw, draw.randint(*NUM_PROMPT_TOKENS), NUM_TOKENS)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        await generations[0].reach(draw.randint(2, NUM_TOKENS // 4))
        name = leaver(arena, generations[0], draw)
        fault_s = asyncio.get_running_loop().time()
        arena.swarm.members[name].send(signal.SIGTERM)
        status = await arena.swarm.members[name].gone()
        num_before = len(generations[0].token_ids)
    problems = await arena.problems(generations)
    if num_before == NUM_TOKENS:
        problems.append(f"{name} stayed until the sessions had ended: nothing was handed over")
    if status != 0:
        problems.append(f"{name} ended with status {status}")
    return Verdict(problems=problems, pause_s=generations[0].pause_s(fault_s), bar_s=bar_s)


EXPERIMENTS = (
    Experiment(
        name="leave-node",
        num_runs=50,
        shape=Shape(),
        run=partial(leave, leaver=any_stage, bar_s=NODE_PAUSE_S),
        bar="handed over, nobody notices",
    ),
    Experiment(
        name="leave-coordinator",
        num_runs=50,
        shape=Shape(num_coordinators=2),
        run=partial(leave, leaver=its_coordinator, bar_s=COORDINATOR_PAUSE_S),
        bar="sessions go on, identical",
    ),
)
