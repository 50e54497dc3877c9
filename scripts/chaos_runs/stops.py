"""Stages that hang and come back: SIGSTOP, later SIGCONT."""

import asyncio
import random
import signal

from scripts.chaos_runs.arena import Arena, Experiment, Verdict
from scripts.chaos_runs.asked import greedy_and_sampled
from scripts.chaos_runs.generation import running
from scripts.chaos_runs.swarm import Shape

NOTICED_S = 2.0  # at most, from the stop on
NUM_TOKENS = 900  # some seconds of them: the stage is back while they still come
NUM_PROMPT_TOKENS = (20, 500)
AWAY_S = (0.1, 2.0)  # from the reroute until the stage is back


async def stop(arena: Arena, draw: random.Random) -> Verdict:
    """Stop any stage of a session, and continue it while the session goes on without it."""
    asked = greedy_and_sampled(draw, draw.randint(*NUM_PROMPT_TOKENS), NUM_TOKENS)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        first = generations[0]
        await first.reach(draw.randint(2, NUM_TOKENS // 4))
        zombie = arena.swarm.name_of(draw.choice(first.pipeline).node_id)
        fault_s = asyncio.get_running_loop().time()
        arena.swarm.nodes[zombie].send(signal.SIGSTOP)
        rerouted_s = await first.reroute()
        noticed_s = rerouted_s - first.rerouted[0][1].pause_s - fault_s
        await asyncio.sleep(draw.uniform(*AWAY_S))
        arena.swarm.nodes[zombie].send(signal.SIGCONT)
        num_before = len(first.token_ids)
    problems = await arena.problems(generations)
    if noticed_s > NOTICED_S:
        problems.append(f"it was noticed after {noticed_s:.2f} s")
    if num_before == len(first.token_ids):
        problems.append("the stage came back after the session's end: nothing was fenced")
    return Verdict(problems=problems, pause_s=first.pause_s(fault_s), notes={"noticed_s": noticed_s})


EXPERIMENTS = (
    Experiment(
        name="stop", num_runs=100, shape=Shape(), run=stop, bar=f"noticed within {NOTICED_S:g} s, zombie fenced"
    ),
)
