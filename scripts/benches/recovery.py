"""Bench `recovery`: the pause that a client sees when a stage is killed, against the prefill of the lost span alone."""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.figure import SECONDS, Figure, Goal, figures_table
from scripts.benches.program import Program
from scripts.benches.prompts import random_prompts
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison
from scripts.benches.span_child import span_child
from scripts.chaos_runs.asked import Asked
from scripts.chaos_runs.generation import Generation
from scripts.chaos_runs.model import chaos_model
from scripts.chaos_runs.swarm import ChaosSwarm, Shape, chaos_swarm

from osai.client import AsyncClient
from osai.client.up.plan import even_spans
from osai.core.errors import UnavailableError

NODE_MEMORY = "2GiB"  # four processes with weights run side by side
KV_BYTES = 512 * 2**20
ANSWER_DEADLINE_S = 600.0
TURN_DEADLINE_S = 900.0
NUM_BEFORE = 16  # tokens before the strike, so that the pipeline runs steadily
NUM_AFTER = 4
MAX_TOKENS = 2048
FOLLOW_FACTOR = 2.0  # a standby computes the rows beside the session: so many times its prefill alone, and
FOLLOW_S = 25.0  # more: four processes share this machine's cores meanwhile
STANDBY_NOTE = (
    f"The standby has {FOLLOW_FACTOR:g} times the prefill alone and {FOLLOW_S:g} s more to catch up, while the session "
    "goes on: all share the machine. A loss before that costs what the standby still lacks."
)
GOAL = Goal(bar=1.5, aim=1.2, at_most=True)
STANDBY_GOAL = Goal(bar=0.2, aim=0.1, at_most=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_tokens: of the prompt.
        num_stages: of the pipeline, one thread each; the tail is killed.
        standby: whether each stage has a node that follows it.
        repeats: turns, each with another prompt.
    """

    dtype: str = "bfloat16"
    num_tokens: int = 4096
    num_stages: int = 2
    standby: bool = False
    repeats: int = 3
    model: Path | None = None


@dataclass(slots=True)
class Turns:
    """Samples, one a turn."""

    pause_s: list[float] = field(default_factory=list)
    prefill_s: list[float] = field(default_factory=list)


async def run(options: Options) -> Result:
    """Kill the tail once a turn, and compute the same number of rows with its layers alone."""
    model, turns = bench_model(options.model, note), Turns()
    spans = even_spans(model.num_layers, options.num_stages)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="osai-bench-")))
        shape = Shape(
            options=("--standby",) if options.standby else (), spans=spans, dtype=options.dtype, memory=NODE_MEMORY
        )
        signed = await asyncio.to_thread(chaos_model, folder, model.folder)
        swarm = await stack.enter_async_context(chaos_swarm(shape, signed, folder, random.Random(0)))  # noqa: S311
        client = await stack.enter_async_context(AsyncClient(swarm.addresses))
        alone = await stack.enter_async_context(
            span_child(model.folder, spans[-1], dtype=options.dtype, num_threads=1, kv_bytes=KV_BYTES)
        )
        await _prefill_s(alone, options)  # warms up
        for i in range(options.repeats):
            async with asyncio.timeout(TURN_DEADLINE_S):
                turns.prefill_s.append(await _prefill_s(alone, options))
                turns.pause_s.append(await _pause_s(swarm, client, model, options, turns.prefill_s[-1], seed=i + 1))
                await swarm.heal()
            note(f"{i + 1} of {options.repeats}: a pause of {turns.pause_s[-1]:.2f} s, {turns.prefill_s[-1]:.2f} alone")
    return _result(options, model, turns)


async def _prefill_s(alone: Program, options: Options) -> float:
    asked = {"do": "prefill", "tokens": options.num_tokens + NUM_BEFORE, "stages": options.num_stages}
    return float(sum((await alone.ask(asked, ANSWER_DEADLINE_S))["step_s"]))


async def _pause_s(
    swarm: ChaosSwarm, client: AsyncClient, model: BenchModel, options: Options, prefill_s: float, *, seed: int
) -> float:
    (prompt,) = random_prompts(model, 1, options.num_tokens, seed)
    async with _running(client, Asked(prompt=tuple(prompt), num_tokens=MAX_TOKENS)) as generation:
        await generation.reach(1)
        if options.standby:
            await asyncio.sleep(FOLLOW_S + FOLLOW_FACTOR * prefill_s)
        await generation.reach(len(generation.token_ids) + NUM_BEFORE)
        fault_s, num_before = asyncio.get_running_loop().time(), len(generation.token_ids)
        await swarm.kill(swarm.name_of(generation.pipeline[-1].node_id))
        await generation.reach(num_before + NUM_AFTER)
    if not generation.rerouted:
        raise UnavailableError("the session was not rerouted: no pause was measured")
    return generation.pause_s(fault_s)


@asynccontextmanager
async def _running(client: AsyncClient, asked: Asked) -> AsyncIterator[Generation]:
    """A generation that is cancelled after the block."""
    generation = Generation(asked)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(generation.follow(client))
        yield generation
        task.cancel()


def _result(options: Options, model: BenchModel, turns: Turns) -> Result:
    figure = Figure(
        name=f"pause after the tail's loss{', with standbys,' if options.standby else ''} / its prefill alone",
        unit=SECONDS,
        compared=Comparison.of(turns.pause_s, turns.prefill_s),
        goal=STANDBY_GOAL if options.standby else GOAL,
    )
    title = (
        f"the pause when one of {options.num_stages} stages is killed after {options.num_tokens} tokens, "
        f"{model.title}, {options.dtype}, medians of {options.repeats}"
    )
    command = command_line(
        "recovery",
        dtype=options.dtype,
        tokens=options.num_tokens,
        stages=options.num_stages,
        repeats=options.repeats,
        model=options.model,
    )
    return Result(
        name="recovery",
        title=title,
        command=command + (" --standby" if options.standby else ""),
        table=figures_table([figure]),
        notes=(
            "Pause: from SIGKILL of the tail's process to the next token at the client, or a longer gap after it.",
            "Against: the same rows computed at once by the same layers in a process of its own, one thread.",
            *((STANDBY_NOTE,) if options.standby else ()),
        ),
        figures={
            **asdict(options),
            "model": str(model.folder),
            **asdict(turns),
            "figures": [figure.as_json()],
        },
    )


@click.command("recovery")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=Options().dtype, show_default=True)
@count_option("--tokens", "num_tokens", Options().num_tokens, "Of the prompt.", least=16)
@count_option("--stages", "num_stages", Options().num_stages, "Of the pipeline.", least=2)
@count_option("--repeats", "repeats", Options().repeats, "Turns.")
@click.option("--standby", is_flag=True, help="Let a second node follow each stage.")
@model_option
@output_options
def command(**given: object) -> None:
    """The pause when a stage is killed, against the prefill of the lost span alone."""
    run_asked(run, Options, given)
