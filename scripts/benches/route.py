"""Bench `route`: what a coordinator takes to find the way through a swarm for one session."""

import gc
import math
import time
from dataclasses import asdict, dataclass
from random import Random
from types import SimpleNamespace
from typing import cast

import click
from scripts.benches.cli import command_line, count_option, counts, output_options, run_asked
from scripts.benches.figure import MILLISECONDS, Unit
from scripts.benches.report import Result, note
from scripts.benches.samples import Summary
from scripts.benches.table import Table

from osai.coordinator.catalog import ServedModel
from osai.coordinator.routes.routing import RouteWish, find_pipeline
from osai.coordinator.swarm import NodeState, SpanState
from osai.core.layers import LayerRange

BAR_S = 0.005
NUM_LAYERS = 80
NUM_MEASURED = 16  # peers to which a node measures the delay
FARTHEST_S = 0.15  # one way, between opposite corners
MODEL_ID = "bench/route"
DIGEST = b"r" * 32
SHOWN = Unit(name="ms", scale=MILLISECONDS.scale, digits=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_nodes: of each swarm.
        stages: of the pipelines; as many nodes host each span.
        num_swarms: drawn for each number of stages; one route is looked for in each, and timed.
    """

    num_nodes: int = 1000
    stages: tuple[int, ...] = (2, 4, 8, 16)
    num_swarms: int = 30


async def run(options: Options) -> Result:
    """Time a route through each swarm."""
    times = {stages: _times(options, stages) for stages in options.stages}
    return _result(options, times)


def _times(options: Options, stages: int) -> list[float]:
    model = cast(
        "ServedModel",
        SimpleNamespace(
            model_id=MODEL_ID, manifest=SimpleNamespace(digest=DIGEST), facts=SimpleNamespace(num_layers=NUM_LAYERS)
        ),
    )
    wish = RouteWish(num_tokens=1000)
    times = []
    for seed in range(options.num_swarms):
        nodes = draw_swarm(options.num_nodes, stages, Random(seed))  # noqa: S311 - a seed repeats it
        gc.collect()
        begun_s = time.perf_counter()
        pipeline = find_pipeline(nodes, model, wish)
        times.append(time.perf_counter() - begun_s)
        if pipeline is None or len(pipeline) != stages:
            raise click.ClickException(f"no route of {stages} stages was found")
    note(f"{stages} stages: {SHOWN.show(Summary.of(times).median)}")
    return times


def draw_swarm(num_nodes: int, stages: int, random: Random) -> tuple[NodeState, ...]:
    """Nodes strewn over a square, of different speeds and loads; each knows its delays to some who may follow it."""
    places = [(random.random(), random.random()) for _ in range(num_nodes)]
    borders = [NUM_LAYERS * i // stages for i in range(stages + 1)]
    nodes = []
    for i in range(num_nodes):
        stage = i % stages
        following = range((stage + 1) % stages, num_nodes, stages)
        step_s = random.uniform(0.005, 0.05)
        hosted = SpanState(
            model_id=MODEL_ID,
            layers=LayerRange(borders[stage], borders[stage + 1]),
            manifest_digest=DIGEST,
            dtype="bfloat16",
            state="ready",
            verified=True,
            num_free_kv_tokens=random.randrange(100_000),
            step_time_s=step_s,
            recent_step_s=step_s * random.uniform(0.9, 2.0),
            num_waiting_rows=random.choice((0, 0, 0, 64)),
        )
        measured = random.sample(following, min(NUM_MEASURED, len(following)))
        nodes.append(
            NodeState(
                node_id=f"node-{i:06}",
                address=f"node-{i:06}:1",
                name="",
                software="",
                device="",
                memory_bytes=0,
                state="ready",
                spans=(hosted,),
                sequence=1,
                num_sessions=random.randrange(4),
                started_at_s=0.0,
                protocol_version=2,
                delays={
                    f"node-{j:06}": 0.001 + FARTHEST_S / math.sqrt(2) * math.dist(places[i], places[j])
                    for j in measured
                },
            )
        )
    return tuple(nodes)


def _result(options: Options, times: dict[int, list[float]]) -> Result:
    found = {stages: Summary.of(seconds) for stages, seconds in times.items()}
    return Result(
        name="route",
        title=f"the way for one session through {options.num_nodes} nodes, medians of {options.num_swarms} swarms",
        command=command_line(
            "route", nodes=options.num_nodes, stages=",".join(map(str, options.stages)), swarms=options.num_swarms
        ),
        table=Table(
            header=("pipeline", "measured", "p95", "bar"),
            rows=tuple(
                (f"{stages} stages", SHOWN.show(one.median), SHOWN.show(one.p95), f"<= {SHOWN.show(BAR_S)}")
                for stages, one in found.items()
            ),
        ),
        notes=(
            f"Nodes of different speeds and loads on a square, {FARTHEST_S * 1e3:.0f} ms from corner to corner.",
            f"Each node has measured the delays to {NUM_MEASURED} that may follow it.",
            "Each route is looked for once, in a swarm that was not seen before.",
        ),
        figures={
            **asdict(options),
            "bar_s": BAR_S,
            "seconds": {str(stages): list[float](seconds) for stages, seconds in times.items()},
        },
    )


@click.command("route")
@count_option("--nodes", "num_nodes", Options().num_nodes, "Of each swarm.", least=NUM_LAYERS)
@click.option(
    "--stages", default=",".join(map(str, Options().stages)), show_default=True, callback=counts, help="Of pipelines."
)
@count_option("--swarms", "num_swarms", Options().num_swarms, "For each number of stages.")
@output_options
def command(**given: object) -> None:
    """Time that a coordinator takes to find a session's way through a large swarm."""
    run_asked(run, Options, given)
