"""A swarm under load in which a node is killed every minute, for hours; nothing may be lost, nothing may pile up."""

import asyncio
import random
from collections.abc import Callable
from functools import partial

import click
from scripts.chaos_runs.arena import Arena, Experiment, Verdict
from scripts.chaos_runs.asked import Asked, greedy_and_sampled
from scripts.chaos_runs.generation import Generation
from scripts.chaos_runs.swarm import Shape

KILL_EVERY_S = 60.0
NUM_CLIENTS = 2
NUM_TOKENS = 200
NUM_REQUESTS = 8  # different ones, asked again and again
NUM_PROMPT_TOKENS = (20, 500)
MIN_SHARE = 0.999  # of generations that are complete; the rest must say why
TELL_EVERY_KILLS = 10  # for whoever watches it
WARM_UP_KILLS = 2  # before memory and descriptors are looked at first
MEMORY_SLACK_BYTES = 64 * 2**20  # of a coordinator, first look to last
DESCRIPTOR_SLACK = 16
PAUSE_S = 0.5  # of a client between two generations


class Soak:
    """What was generated so far."""

    def __init__(self, arena: Arena, requests: list[Asked], draw: random.Random) -> None:
        self._arena, self._requests, self._draw = arena, requests, draw
        self.num_complete = self.num_explicit = 0
        self.problems: list[str] = []
        self.pauses_s: list[float] = []

    @property
    def num_all(self) -> int:
        """Generations that have ended."""
        return self.num_complete + self.num_explicit + len(self.problems)

    async def ask(self, is_over: Callable[[], bool]) -> None:
        """One generation after the other."""
        while not is_over():
            generation = Generation(self._draw.choice(self._requests))
            begun_s = asyncio.get_running_loop().time()
            await generation.follow(self._arena.client)
            await self._judge(generation)
            self.pauses_s.append(generation.pause_s(begun_s))
            await asyncio.sleep(PAUSE_S)

    async def _judge(self, generation: Generation) -> None:
        expected = await self._arena.undisturbed.tokens(generation.asked)
        if generation.error is None and not (problems := generation.problems(expected)):
            self.num_complete += 1
        elif generation.error is not None and not (problems := generation.differences(expected)):
            self.num_explicit += 1
        else:
            self.problems.append("; ".join(problems))


async def soak(arena: Arena, draw: random.Random, *, minutes: float) -> Verdict:
    """Kill any node every minute, and bring it back."""
    requests = [
        one for _ in range(NUM_REQUESTS // 2) for one in greedy_and_sampled(draw, draw.randint(*NUM_PROMPT_TOKENS),
                                                                           NUM_TOKENS)
    ]  # fmt: skip
    await arena.undisturbed.prepare(requests)
    done, loop = Soak(arena, requests, draw), asyncio.get_running_loop()
    end_s = loop.time() + 60.0 * minutes
    first: dict[str, tuple[int, int]] = {}
    async with asyncio.TaskGroup() as group:
        for _ in range(NUM_CLIENTS):
            group.create_task(done.ask(lambda: loop.time() >= end_s))
        num_kills = 0
        while loop.time() < end_s:
            await asyncio.sleep(min(KILL_EVERY_S, max(0.0, end_s - loop.time())))
            victim = draw.choice(list(arena.swarm.nodes))
            await arena.swarm.kill(victim)
            await arena.swarm.restart(victim)
            num_kills += 1
            if num_kills == WARM_UP_KILLS:
                first = _usage(arena)
            if num_kills % TELL_EVERY_KILLS == 0:
                click.echo(f"chaos: {num_kills} kills, {done.num_complete} of {done.num_all} complete; {_told(arena)}",
                           err=True)  # fmt: skip
    problems = [*done.problems, *_growth(first, _usage(arena))]
    if done.num_complete < MIN_SHARE * done.num_all:
        problems.append(f"{done.num_complete} of {done.num_all} generations were complete")
    notes = {"complete": done.num_complete, "explicit": done.num_explicit, "kills": num_kills}
    notes |= {f"{name}_mib": memory >> 20 for name, (memory, _) in _usage(arena).items()}
    return Verdict(problems=problems, pause_s=max(done.pauses_s, default=0.0), notes={**notes})


def _usage(arena: Arena) -> dict[str, tuple[int, int]]:
    """Of members that are never killed."""
    return {name: member.usage() for name, member in arena.swarm.coordinators.items()}


def _told(arena: Arena) -> str:
    return ", ".join(
        f"{name} {memory >> 20} MiB, {descriptors} descriptors" for name, (memory, descriptors) in _usage(arena).items()
    )


def _growth(first: dict[str, tuple[int, int]], last: dict[str, tuple[int, int]]) -> list[str]:
    found = []
    for name, (memory, descriptors) in first.items():
        if last[name][0] > memory + MEMORY_SLACK_BYTES:
            found.append(f"{name} grew from {memory >> 20} to {last[name][0] >> 20} MiB")
        if last[name][1] > descriptors + DESCRIPTOR_SLACK:
            found.append(f"{name} had {descriptors} descriptors, and has {last[name][1]}")
    return found


def experiment(minutes: float) -> Experiment:
    """A soak of so many minutes, one run."""
    return Experiment(
        name="soak",
        num_runs=1,
        shape=Shape(is_measured=True),
        run=partial(soak, minutes=minutes),
        bar="99.9% complete, memory level",
        deadline_s=60.0 * minutes + 300.0,
    )
