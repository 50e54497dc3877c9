"""Stages that are killed: each of them, while a prompt is computed and while tokens come, alone and together."""

import asyncio
import random
from functools import partial

from scripts.chaos_runs.arena import Arena, Experiment, Verdict
from scripts.chaos_runs.asked import Asked, greedy_and_sampled, random_prompt
from scripts.chaos_runs.generation import Generation, running
from scripts.chaos_runs.swarm import Shape

from osai.client import Stage

PAIR = Shape(num_replicas=2)
TRIPLE = Shape(num_replicas=3)
FOLLOWED = Shape(num_replicas=2, options=("--standby",))
STAGES = ("head", "middle", "tail")
NUM_TOKENS = 400  # of generations that are struck while tokens come
NUM_LONG_TOKENS = (1500, 4000)  # of prompts whose computation is struck
NUM_SHORT_TOKENS = (20, 1500)
BAR = "1 s + 1.5 x prefill of the lost span"
TRIES = 5
NOT_HIT = "the session was never rerouted: the fault did not hit it"


async def mid_decode(arena: Arena, draw: random.Random, *, stage: int, num_tokens: int = NUM_TOKENS) -> Verdict:
    """Kill a stage of the first of two sessions, a greedy and a sampled one, at any token."""
    asked = greedy_and_sampled(draw, draw.randint(*NUM_SHORT_TOKENS), num_tokens)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        index = draw.randint(2, num_tokens * 3 // 4)
        await generations[0].reach(index)
        fault_s = await strike(arena, generations[0], stage)
    return await judge(arena, generations, fault_s, len(asked[0].prompt) + index)


async def mid_prefill(arena: Arena, draw: random.Random, *, stage: int) -> Verdict:
    """Kill a stage while the session's prompt, a long one, is computed; the pause is what the first token is late."""
    for _ in range(TRIES):
        num_tokens, sampled = draw.randint(*NUM_LONG_TOKENS), draw.random() < 0.5
        prompt = random_prompt(draw, num_tokens)
        asked = Asked(prompt=prompt, num_tokens=30, temperature=0.8 if sampled else 0.0, seed=draw.randrange(2**32))
        await arena.undisturbed.tokens(asked)
        undisturbed_s = arena.prefill.at(num_tokens)
        async with running(arena.client, [asked]) as generations:
            await generations[0].opened()
            await asyncio.sleep(undisturbed_s * draw.uniform(0.05, 0.8))
            is_early = not generations[0].token_ids
            if is_early:
                await strike(arena, generations[0], stage)
        if is_early:
            break
    else:
        return Verdict(problems=["the first token came before every strike: nothing was tried"])
    problems = await arena.problems(generations)
    if not generations[0].rerouted:
        problems.append(NOT_HIT)
    started_s = generations[0].started_s or 0.0
    first_s = generations[0].arrivals[0] if generations[0].arrivals else started_s
    return Verdict(
        problems=problems,
        pause_s=max(0.0, first_s - started_s - undisturbed_s),
        bar_s=arena.bar_s(num_tokens),
        notes={"num_tokens": num_tokens, "undisturbed_s": undisturbed_s},
    )


async def mid_decode_followed(arena: Arena, draw: random.Random) -> Verdict:
    """Kill any stage of a session whose stages have standbys."""
    asked = greedy_and_sampled(draw, draw.randint(*NUM_SHORT_TOKENS), 2 * NUM_TOKENS)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        index = draw.randint(NUM_TOKENS, 2 * NUM_TOKENS * 3 // 4)
        await generations[0].reach(index)
        fault_s = await strike(arena, generations[0], draw.randrange(len(arena.swarm.shape.spans)))
    verdict = await judge(arena, generations, fault_s, len(asked[0].prompt) + index)
    verdict.bar_s = 1.0
    return verdict


async def adjacent(arena: Arena, draw: random.Random) -> Verdict:
    """Kill two neighbours at once."""
    asked = greedy_and_sampled(draw, draw.randint(*NUM_SHORT_TOKENS), NUM_TOKENS)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        index = draw.randint(2, NUM_TOKENS * 3 // 4)
        await generations[0].reach(index)
        first = draw.randrange(len(arena.swarm.shape.spans) - 1)
        fault_s = await strike(arena, generations[0], first, first + 1)
    return await judge(arena, generations, fault_s, len(asked[0].prompt) + index, num_spans=2)


async def replacement(arena: Arena, draw: random.Random) -> Verdict:
    """Kill a stage, and during its recovery one of those that may replace it."""
    asked = greedy_and_sampled(draw, draw.randint(500, NUM_SHORT_TOKENS[1]), NUM_TOKENS)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        index = draw.randint(2, NUM_TOKENS * 3 // 4)
        await generations[0].reach(index)
        stage = draw.randrange(len(arena.swarm.shape.spans))
        victim = arena.swarm.name_of(generations[0].pipeline[stage].node_id)
        fault_s = await strike(arena, generations[0], stage)
        await asyncio.sleep(draw.uniform(0.0, 0.1))
        others = [name for name in arena.swarm.of_stage(stage) if name != victim]
        await arena.swarm.kill(draw.choice(others))
    return await judge(arena, generations, fault_s, len(asked[0].prompt) + index, num_spans=2)


async def strike(arena: Arena, generation: Generation, *stages: int) -> float:
    """Kill the nodes of these stages of a generation's pipeline; when that was."""
    pipeline: tuple[Stage, ...] = generation.pipeline
    names = [arena.swarm.name_of(pipeline[stage].node_id) for stage in stages]
    fault_s = asyncio.get_running_loop().time()
    await arena.swarm.kill(*names)
    return fault_s


async def judge(
    arena: Arena, generations: list[Generation], fault_s: float, num_rows: int, *, num_spans: int = 1
) -> Verdict:
    """All must be whole; the first one's pause counts, against that of so many lost spans of so many rows."""
    problems = await arena.problems(generations)
    if not generations[0].rerouted:
        problems.append(NOT_HIT)
    return Verdict(
        problems=problems,
        pause_s=generations[0].pause_s(fault_s),
        bar_s=1.0 + num_spans * (arena.bar_s(num_rows) - 1.0),
        notes={"num_rows": num_rows},
    )


EXPERIMENTS = (
    *(
        Experiment(
            name=f"kill-{STAGES[i]}-{moment}",
            num_runs=200,
            shape=PAIR,
            run=partial(run, stage=i),
            bar=BAR,
            needs_prefill=True,
        )
        for moment, run in (("prefill", mid_prefill), ("decode", mid_decode))
        for i in range(len(STAGES))
    ),
    Experiment(name="adjacent", num_runs=50, shape=TRIPLE, run=adjacent, bar=BAR, needs_prefill=True),
    Experiment(name="replacement", num_runs=50, shape=TRIPLE, run=replacement, bar=BAR, needs_prefill=True),
    Experiment(name="standby", num_runs=50, shape=FOLLOWED, run=mid_decode_followed, bar="1 s", needs_prefill=True),
)
