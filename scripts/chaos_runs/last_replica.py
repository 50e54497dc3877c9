"""The last replica of some layers is killed: sessions end in time, with what there was of them."""

import asyncio
import random

from scripts.chaos_runs.arena import Arena, Experiment, Verdict
from scripts.chaos_runs.asked import greedy_and_sampled
from scripts.chaos_runs.generation import Generation, running
from scripts.chaos_runs.swarm import Shape

from osai.core.errors import NotCoveredError, UnavailableError

COVERAGE_WAIT_S = 3.0
DEADLINE_S = COVERAGE_WAIT_S + 2.0  # what the coordinator waits, and until it has noticed and told
NUM_TOKENS = 800
NUM_PROMPT_TOKENS = (20, 500)


async def last_replica(arena: Arena, draw: random.Random) -> Verdict:
    """Kill every node of one stage, and start none again until the sessions have ended."""
    asked = greedy_and_sampled(draw, draw.randint(*NUM_PROMPT_TOKENS), NUM_TOKENS)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        for generation in generations:
            await generation.reach(draw.randint(1, NUM_TOKENS // 2))
        fault_s = asyncio.get_running_loop().time()
        await arena.swarm.kill(*arena.swarm.of_stage(draw.randrange(len(arena.swarm.shape.spans))))
    took_s = asyncio.get_running_loop().time() - fault_s
    problems = [problem for one in generations for problem in await _problems(arena, one)]
    if took_s > DEADLINE_S:
        problems.append(f"the errors came after {took_s:.2f} s")
    return Verdict(problems=problems, notes={"took_s": took_s})


async def _problems(arena: Arena, generation: Generation) -> list[str]:
    found = generation.differences(await arena.undisturbed.tokens(generation.asked))
    if not isinstance(generation.error, NotCoveredError | UnavailableError):
        found.append(f"it ended with {generation.error!r}, not with an error that says what is missing")
    if generation.partial is None:
        found.append("the error does not carry what was generated")
    elif generation.partial.token_ids != tuple(generation.token_ids) or generation.partial.finish_reason != "error":
        found.append(f"the error carries {len(generation.partial.token_ids)} of {len(generation.token_ids)} tokens")
    return found


EXPERIMENTS = (
    Experiment(
        name="last-replica",
        num_runs=50,
        shape=Shape(num_replicas=1, options=("--coverage-wait", f"{COVERAGE_WAIT_S:g}")),
        run=last_replica,
        bar=f"error within {DEADLINE_S:g} s, partial text",
    ),
)
