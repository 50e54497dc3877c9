"""Bench `gateway`: tokens a second through HTTP against the same through gRPC, and the time that HTTP adds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import grpc
from scripts.benches.bench_model import bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.figure import MILLISECONDS, TOKENS_A_SECOND, Figure, Goal, figures_table
from scripts.benches.gateway_streams import Asked, GrpcDoor, HttpDoor, Stream, rate
from scripts.benches.program import running
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison, Summary
from scripts.benches.swarm import START_DEADLINE_S

from osai.client.up.plan import even_spans

FAST_MODEL = "bench/fast"
PROMPT = (5, 6, 7, 8)
GOAL = Goal(bar=0.9, aim=0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_streams: at once.
        num_tokens: of each, where generations cost nothing.
        num_swarm_tokens: of each, through the real swarm; its speed is the model's.
        num_single: requests one after the other, for the time to the first token.
        repeats: pairs of HTTP and gRPC.
    """

    num_streams: int = 64
    num_tokens: int = 200
    num_swarm_tokens: int = 32
    num_single: int = 100
    repeats: int = 7
    model: Path | None = None


@dataclass(slots=True)
class Samples:
    """Of one coordinator, a number a turn."""

    http_rate: list[float] = field(default_factory=list)
    grpc_rate: list[float] = field(default_factory=list)
    http_first_s: list[float] = field(default_factory=list)
    grpc_first_s: list[float] = field(default_factory=list)


async def run(options: Options) -> Result:
    """Measure both doors of a coordinator whose generations cost nothing, then of one with a real swarm."""
    async with running("the doors", "scripts.benches.gateway_door") as program:
        ready = await program.answer(START_DEADLINE_S)
        fast = await _measure(ready, Asked(model_id=FAST_MODEL, prompt=PROMPT, num_tokens=options.num_tokens), options)
    async with _swarm(options) as (ready, model_id):
        asked = Asked(model_id=model_id, prompt=PROMPT, num_tokens=options.num_swarm_tokens)
        real = await _measure(ready, asked, options)
    return _result(options, fast, real)


@asynccontextmanager
async def _swarm(options: Options) -> AsyncIterator[tuple[dict[str, object], str]]:
    """A swarm of two nodes: what it says of itself, and its model's id (empty: the only one)."""
    model = bench_model(options.model, note)
    spans = ",".join(str(span) for span in even_spans(model.num_layers, 2))
    arguments = ["up", "--json", "--model", str(model.folder), "--spans", spans, "--threads", "1"]
    async with running("the swarm", "osai.client", *arguments) as up:
        yield await up.answer(START_DEADLINE_S), ""


async def _measure(ready: dict[str, object], asked: Asked, options: Options) -> Samples:
    samples = Samples()
    async with grpc.aio.insecure_channel(str(ready["grpc"])) as channel:
        http, direct = HttpDoor(str(ready["http"])).stream, GrpcDoor(channel).stream
        for door in (http, direct):  # warms both up
            await rate(door, asked, options.num_streams)
        for i in range(options.repeats):
            samples.http_rate.append(await rate(http, asked, options.num_streams))
            samples.grpc_rate.append(await rate(direct, asked, options.num_streams))
            await _first(samples, http, direct, asked, options.num_single // options.repeats)
            note(f"{i + 1} of {options.repeats}: {samples.http_rate[-1]:.0f} / {samples.grpc_rate[-1]:.0f} tokens/s")
    return samples


async def _first(samples: Samples, http: Stream, direct: Stream, asked: Asked, count: int) -> None:
    """Time to the first token of requests one after the other, in turns."""
    one = Asked(model_id=asked.model_id, prompt=asked.prompt, num_tokens=1)
    for _ in range(max(1, count)):
        samples.http_first_s.append((await http(one))[0])
        samples.grpc_first_s.append((await direct(one))[0])
        await asyncio.sleep(0)


def _figures(name: str, samples: Samples, goal: Goal | None) -> list[Figure]:
    return [
        Figure(
            name=f"{name}: tokens/s through HTTP / gRPC",
            unit=TOKENS_A_SECOND,
            compared=Comparison.of(samples.http_rate, samples.grpc_rate),
            goal=goal,
        ),
        Figure(
            name=f"{name}: first token through HTTP / gRPC",
            unit=MILLISECONDS,
            compared=Comparison.of(samples.http_first_s, samples.grpc_first_s),
        ),
    ]


def _added_s(samples: Samples) -> float:
    return Summary.of(samples.http_first_s).median - Summary.of(samples.grpc_first_s).median


def _result(options: Options, fast: Samples, real: Samples) -> Result:
    figures = [*_figures("fast", fast, GOAL), *_figures("swarm", real, GOAL)]
    return Result(
        name="gateway",
        title=f"{options.num_streams} streams at once through HTTP and through gRPC, medians of {options.repeats}",
        command=command_line(
            "gateway",
            streams=options.num_streams,
            tokens=options.num_tokens,
            swarm_tokens=options.num_swarm_tokens,
            single=options.num_single,
            repeats=options.repeats,
            model=options.model,
        ),
        table=figures_table(figures),
        notes=_notes(fast, real),
        figures={**asdict(options), "model": str(options.model), "figures": [figure.as_json() for figure in figures]},
    )


def _notes(fast: Samples, real: Samples) -> tuple[str, ...]:
    return (
        (
            "fast: the coordinator's doors before generations that cost nothing, in a process of their own: only the "
            "doors are measured. swarm: a coordinator with two nodes; the model is what takes the time."
        ),
        (
            "HTTP: /v1/completions, one connection a stream, its events counted and not parsed. gRPC: "
            "Coordinator.Generate on one channel, its messages parsed, as that library can't but do."
        ),
        (
            f"HTTP adds {_added_s(fast) * 1e3:.2f} ms (fast) or {_added_s(real) * 1e3:.2f} ms (swarm) to the first "
            "token; a connection is open before its clock starts."
        ),
    )


@click.command("gateway")
@count_option("--streams", "num_streams", Options().num_streams, "At once.")
@count_option("--tokens", "num_tokens", Options().num_tokens, "Of each stream, before generations that cost nothing.")
@count_option("--swarm-tokens", "num_swarm_tokens", Options().num_swarm_tokens, "Of each stream through the swarm.")
@count_option("--single", "num_single", Options().num_single, "Requests one by one, for the time to the first token.")
@count_option("--repeats", "repeats", Options().repeats, "Pairs of HTTP and gRPC.")
@model_option
@output_options
def command(**given: object) -> None:
    """Tokens a second through HTTP against the same through gRPC, and the time that HTTP adds."""
    run_asked(run, Options, given)
