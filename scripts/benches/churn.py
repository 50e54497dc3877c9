"""Bench `churn`: tokens a second while stages are killed at random, against starting the request again each time."""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from scripts.benches.cli import command_line, count_option, output_options, run_asked
from scripts.benches.figure import TOKENS_A_SECOND, Figure, Goal, figures_table
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison
from scripts.chaos_runs.asked import Asked, random_prompt
from scripts.chaos_runs.generation import Generation
from scripts.chaos_runs.model import chaos_model
from scripts.chaos_runs.shim import Way
from scripts.chaos_runs.swarm import ChaosSwarm, Shape, chaos_swarm

from osai.client import AsyncClient
from osai.core.errors import InvalidRequestError

SHAPE = Shape(num_replicas=3, is_relayed=True)
NUM_PROMPT_TOKENS = 64
TURN_DEADLINE_S = 900.0
GOAL = Goal(bar=1.0, aim=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        rates: the chance that a stage is killed in one of its steps.
        num_tokens: of each generation.
        delay_ms: one way, of every link; a swarm of volunteers is no rack, and killed nodes find time to come back.
        seconds: of each way at each rate, in each turn.
        repeats: turns.
    """

    rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    num_tokens: int = 64
    delay_ms: int = 30
    seconds: int = 60
    repeats: int = 1


@dataclass(slots=True)
class Turns:
    """Samples by rate, one a turn: tokens a second that reached the client in complete generations."""

    resumed: dict[float, list[float]] = field(default_factory=dict)
    restarted: dict[float, list[float]] = field(default_factory=dict)
    num_kills: dict[float, int] = field(default_factory=dict)
    num_spared: dict[float, int] = field(default_factory=dict)


class Killer:
    """Kills stages of the running generation at a rate, and brings them back."""

    def __init__(self, swarm: ChaosSwarm, rate: float, draw: random.Random) -> None:
        self.swarm = swarm
        self._rate, self._draw = rate, draw
        self._coming: set[asyncio.Task[None]] = set()
        self.num_kills = self.num_spared = 0

    async def step(self, generation: Generation) -> None:
        """A token has come: each stage has taken a step."""
        for stage in generation.pipeline:
            if self._draw.random() < self._rate:
                await self._kill(self.swarm.name_of(stage.node_id))

    async def settle(self) -> None:
        """Wait until all are back."""
        await asyncio.gather(*self._coming)
        await self.swarm.wait_whole()

    async def _kill(self, name: str) -> None:
        replicas = self.swarm.of_stage(int(name.removeprefix("node-")[0]))
        if sum(self.swarm.nodes[other].is_alive for other in replicas) < 2 or not self.swarm.nodes[name].is_alive:
            self.num_spared += 1  # the last one is spared: there would be nothing to compare
            return
        self.num_kills += 1
        await self.swarm.kill(name)
        task = asyncio.ensure_future(self.swarm.restart(name))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)


async def run(options: Options) -> Result:
    """Measure both ways at each rate, in turns, on one swarm."""
    turns = Turns()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osai-bench-")))
        draw = random.Random(0)  # noqa: S311 - not for secrets
        model = await asyncio.to_thread(chaos_model, folder)
        swarm = await stack.enter_async_context(chaos_swarm(SHAPE, model, folder, draw))
        client = await stack.enter_async_context(AsyncClient(swarm.addresses))
        for i in range(options.repeats):
            for rate in options.rates:
                for restarts, found in ((False, turns.resumed), (True, turns.restarted)):
                    async with asyncio.timeout(TURN_DEADLINE_S + options.seconds):
                        killer = Killer(swarm, rate, random.Random(i))  # noqa: S311
                        rate_s = await _tokens_a_second(client, killer, options, restarts=restarts)
                    found.setdefault(rate, []).append(rate_s)
                    turns.num_kills[rate] = turns.num_kills.get(rate, 0) + killer.num_kills
                    turns.num_spared[rate] = turns.num_spared.get(rate, 0) + killer.num_spared
                note(f"{i + 1} of {options.repeats}, rate {rate:g}: {turns.resumed[rate][-1]:.1f} tok/s resumed, "
                     f"{turns.restarted[rate][-1]:.1f} restarted")  # fmt: skip
    return _result(options, turns)


async def _tokens_a_second(client: AsyncClient, killer: Killer, options: Options, *, restarts: bool) -> float:
    """Generate for some seconds; a request that is started again counts when it is complete."""
    swarm, loop = killer.swarm, asyncio.get_running_loop()
    swarm.network.set_everywhere(Way(delay_s=options.delay_ms / 1e3))
    draw, begun_s, num_tokens = random.Random(1), loop.time(), 0  # noqa: S311
    while loop.time() < begun_s + options.seconds:
        asked = Asked(prompt=random_prompt(draw, NUM_PROMPT_TOKENS), num_tokens=options.num_tokens)
        while not await _generated(client, killer, asked, restarts=restarts):
            if loop.time() > begun_s + TURN_DEADLINE_S:
                break  # it may never be complete
        else:
            num_tokens += options.num_tokens
    if restarts:  # what completes none is not divided by
        num_tokens = max(num_tokens, options.num_tokens)
    took_s = loop.time() - begun_s
    swarm.network.heal()
    await killer.settle()
    return num_tokens / took_s


async def _generated(client: AsyncClient, killer: Killer, asked: Asked, *, restarts: bool) -> bool:
    """Run a request; False if it broke off: it failed, or a stage was lost and it is to be started again."""
    generation = Generation(asked)
    task = asyncio.ensure_future(generation.follow(client))
    try:
        num_seen = 0
        while not task.done():
            await asyncio.wait([task], timeout=0.002)
            for _ in range(len(generation.token_ids) - num_seen):
                await killer.step(generation)
            num_seen = len(generation.token_ids)
            if restarts and generation.rerouted:
                return False
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return generation.error is None and not (restarts and generation.rerouted)


def _result(options: Options, turns: Turns) -> Result:
    figures = [
        Figure(
            name=f"{rate:g} a stage-step: resumed / restarted",
            unit=TOKENS_A_SECOND,
            compared=Comparison.of(turns.resumed[rate], turns.restarted[rate]),
            goal=GOAL,
        )
        for rate in options.rates
    ]
    kills = ", ".join(f"{turns.num_kills[rate]} at {rate:g}" for rate in options.rates)
    spared = sum(turns.num_spared.values())
    return Result(
        name="churn",
        title=(
            f"throughput of a stream while stages are killed, {len(SHAPE.spans)} stages of {SHAPE.num_replicas} nodes, "
            f"links of {options.delay_ms} ms, {options.num_tokens} tokens a request"
        ),
        command=command_line(
            "churn",
            rates=",".join(f"{rate:g}" for rate in options.rates),
            tokens=options.num_tokens,
            delay=options.delay_ms,
            seconds=options.seconds,
            repeats=options.repeats,
        ),
        table=figures_table(figures),
        notes=(
            f"SIGKILL of node processes, back after about 5 s: {kills}; {spared} more were spared, as last replicas.",
            "Against: the same swarm and rate; a request that loses a stage is asked again, and counts when complete.",
            "Its prompt may come from the nodes' caches then.",
            f"Where no such request was complete in {TURN_DEADLINE_S / 60:.0f} minutes, one is counted all the same.",
        ),
        figures={**asdict(options), **asdict(turns), "figures": [figure.as_json() for figure in figures]},
    )


def _rates(context: click.Context, parameter: click.Parameter, value: str) -> Sequence[float]:
    try:
        rates = tuple(float(part) for part in value.split(","))
    except ValueError as e:
        raise click.BadParameter(f"{value!r} is no list of rates; write 0.001,0.01", context, parameter) from e
    if not all(0 < rate < 1 for rate in rates):
        raise InvalidRequestError("a rate is a chance between 0 and 1")
    return rates


@click.command("churn")
@click.option("--rates", default="1e-4,1e-3,1e-2", show_default=True, callback=_rates, help="Kills a stage-step.")
@count_option("--tokens", "num_tokens", Options().num_tokens, "Of each generation.", least=2)
@count_option("--delay", "delay_ms", Options().delay_ms, "Of every link one way, in ms.")
@count_option("--seconds", "seconds", Options().seconds, "Of each way at each rate.")
@count_option("--repeats", "repeats", Options().repeats, "Turns.")
@output_options
def command(**given: object) -> None:
    """Tokens a second while stages are killed, against starting the request again each time."""
    run_asked(run, Options, given)
