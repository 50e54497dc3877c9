"""Links that fail while their ends live: partitions one way and two ways, loss, and delay that varies."""

import asyncio
import random
from collections.abc import Callable
from functools import partial

from scripts.chaos_runs.arena import Arena, Experiment, Verdict
from scripts.chaos_runs.asked import greedy_and_sampled
from scripts.chaos_runs.generation import Generation, running
from scripts.chaos_runs.shim import Way
from scripts.chaos_runs.swarm import Shape

RELAYED = Shape(is_relayed=True)
COORDINATOR = "coordinator-0"
HEALED_S = 30.0
LASTS_S = (1.0, 8.0)
NUM_TOKENS = 1000  # some seconds of them
NUM_SLOW_TOKENS = 25  # over links of 200 ms, three of them a token
NUM_PROMPT_TOKENS = (20, 500)
CUT = Way(is_cut=True)
LOSSY = Way(loss=0.05)
SLOW = Way(delay_s=0.2, jitter_s=0.05)


def between_nodes(generation: Generation, arena: Arena, draw: random.Random) -> tuple[str, str]:
    """A stage and its successor; the tail's is the head."""
    first = draw.randrange(len(generation.pipeline))
    stages = (generation.pipeline[first], generation.pipeline[(first + 1) % len(generation.pipeline)])
    source, target = (arena.swarm.name_of(stage.node_id) for stage in stages)
    return source, target


def from_coordinator(generation: Generation, arena: Arena, draw: random.Random) -> tuple[str, str]:
    """The coordinator and any stage."""
    return COORDINATOR, arena.swarm.name_of(draw.choice(generation.pipeline).node_id)


def to_coordinator(generation: Generation, arena: Arena, draw: random.Random) -> tuple[str, str]:
    """Any stage and the coordinator."""
    source, target = from_coordinator(generation, arena, draw)
    return target, source


Ends = Callable[[Generation, Arena, random.Random], tuple[str, str]]


async def partition(arena: Arena, draw: random.Random, *, ends: Ends, both_ways: bool) -> Verdict:
    """Cut what two members of a session say to each other for some seconds."""
    asked = greedy_and_sampled(draw, draw.randint(*NUM_PROMPT_TOKENS), NUM_TOKENS)
    await arena.undisturbed.prepare(asked)
    async with running(arena.client, asked) as generations:
        await generations[0].reach(draw.randint(2, NUM_TOKENS // 4))
        source, target = ends(generations[0], arena, draw)
        fault_s = asyncio.get_running_loop().time()
        arena.swarm.network.set(source, target, CUT)
        if both_ways:
            arena.swarm.network.set(target, source, CUT)
        await asyncio.sleep(draw.uniform(*LASTS_S))
        arena.swarm.network.heal()
        healed_s = asyncio.get_running_loop().time()
    problems = await arena.problems(generations)
    pause_s = generations[0].pause_s(fault_s)
    whole_s = max(0.0, generations[0].arrivals[-1] - healed_s) if generations[0].arrivals else 0.0
    await arena.swarm.wait_whole(HEALED_S)
    return Verdict(problems=problems, pause_s=pause_s, bar_s=HEALED_S, notes={"after_s": whole_s})


async def bad_links(arena: Arena, draw: random.Random, *, way: Way, num_tokens: int) -> Verdict:
    """Let every link be bad from before the sessions open until they end."""
    asked = greedy_and_sampled(draw, draw.randint(*NUM_PROMPT_TOKENS), num_tokens)
    await arena.undisturbed.prepare(asked)
    begun_s = asyncio.get_running_loop().time()
    arena.swarm.network.set_everywhere(way)
    async with running(arena.client, asked) as generations:
        pass
    arena.swarm.network.heal()
    problems = await arena.problems(generations)
    return Verdict(
        problems=problems,
        pause_s=generations[0].pause_s(begun_s),
        bar_s=HEALED_S,
        notes={"reroutes": sum(len(one.rerouted) for one in generations)},
    )


BAR = f"complete, healed within {HEALED_S:g} s"
EXPERIMENTS = (
    *(
        Experiment(
            name=f"partition-{name}",
            num_runs=100,
            shape=RELAYED,
            run=partial(partition, ends=ends, both_ways=both_ways),
            bar=BAR,
        )
        for name, ends, both_ways in (
            ("nodes-one-way", between_nodes, False),
            ("nodes-two-way", between_nodes, True),
            ("from-coordinator", from_coordinator, False),
            ("to-coordinator", to_coordinator, False),
            ("coordinator-two-way", from_coordinator, True),
        )
    ),
    Experiment(
        name="loss",
        num_runs=100,
        shape=RELAYED,
        run=partial(bad_links, way=LOSSY, num_tokens=100),
        bar=BAR,
    ),
    Experiment(
        name="delay",
        num_runs=100,
        shape=RELAYED,
        run=partial(bad_links, way=SLOW, num_tokens=NUM_SLOW_TOKENS),
        bar=BAR,
    ),
)
