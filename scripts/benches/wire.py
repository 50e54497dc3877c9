"""Bench `wire`: bytes that a decode token takes on the wire of a hop, against those of its hidden state."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.figure import Figure, Goal, Unit, figures_table
from scripts.benches.prompts import random_prompts
from scripts.benches.relay import Relay
from scripts.benches.relayed_swarm import RelayedSwarm, relayed_swarm
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison
from scripts.benches.swarm import generate

from osai.core.errors import UnavailableError

ITEM_BYTES = {"bfloat16": 2, "float32": 4}
NUM_SHORT = 16  # tokens of the generation that is subtracted
SETTLE_S = 0.3  # after a generation, until nothing of it is on its way
WIDE = 8192  # hidden size of a 70B Llama
GOAL = Goal(bar=1.05, aim=1.02, at_most=True)
BYTES = Unit(name="B", digits=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_prompt_tokens: positions are numbers of as many digits.
        num_tokens: that the long generation has more than the short one.
        num_stages: of the pipeline; each hop that carries hidden states is a line.
        repeats: pairs of a short and a long generation.
    """

    dtype: str = "bfloat16"
    num_prompt_tokens: int = 2000
    num_tokens: int = 256
    num_stages: int = 2
    repeats: int = 3
    model: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes a decode token on one hop; the connection that carries the frames, and all of the relay's.

    Attributes:
        forward: of the frames' connection, in their direction.
        both_ways: of the same connection.
        everything: of all connections both ways: frames, prefill's lane, and the coordinator's link to this stage.
    """

    forward: float
    both_ways: float
    everything: float


async def run(options: Options) -> Result:
    """Count what two generations, alike but in length, put on each hop; the difference is decode tokens alone."""
    model = bench_model(options.model, note)
    hops: list[list[Traffic]] = [[] for _ in range(options.num_stages - 1)]
    async with relayed_swarm(model.folder, num_stages=options.num_stages, dtype=options.dtype, num_threads=1) as swarm:
        prompts = random_prompts(model, 2 * options.repeats + 1, options.num_prompt_tokens)
        await generate(swarm.client, prompts.pop(), NUM_SHORT)  # dials the links
        for i in range(options.repeats):
            short = await _count(swarm, prompts.pop(), NUM_SHORT)
            long = await _count(swarm, prompts.pop(), NUM_SHORT + options.num_tokens)
            for hop, before, after in zip(hops, short, long, strict=True):
                hop.append(traffic(before, after, options.num_tokens))
            note(f"{i + 1} of {options.repeats}: {hops[0][-1].forward:.1f} bytes a token on the first hop")
    return _result(options, model, hops)


Counts = Sequence[tuple[int, int]]  # bytes by connection of a relay: from who dialled, from who was dialled


async def _count(swarm: RelayedSwarm, prompt: list[int], num_tokens: int) -> list[Counts]:
    """Bytes by hop and connection in one generation."""
    relays = swarm.relays[1:]  # into the head come tokens, not hidden states
    before = [relay.counts() for relay in relays]
    await generate(swarm.client, prompt, num_tokens)
    await asyncio.sleep(SETTLE_S)
    return [_since(relay, then) for relay, then in zip(relays, before, strict=True)]


def _since(relay: Relay, before: Counts) -> Counts:
    """Bytes that each connection has carried since.

    Raises:
        UnavailableError: if a link was dialled meanwhile: its greeting would count as tokens.
    """
    now = relay.counts()
    if len(now) != len(before):
        raise UnavailableError("a link was dialled anew while bytes were counted: run the bench again")
    return [(a - c, b - d) for (a, b), (c, d) in zip(now, before, strict=True)]


def traffic(short: Counts, long: Counts, num_tokens: int) -> Traffic:
    """What `num_tokens` decode tokens put on a hop: the long generation has so many more than the short one."""
    more = [(a - c, b - d) for (a, b), (c, d) in zip(long, short, strict=True)]
    frames = max(more)
    return Traffic(
        forward=frames[0] / num_tokens,
        both_ways=sum(frames) / num_tokens,
        everything=sum(map(sum, more)) / num_tokens,
    )


def _result(options: Options, model: BenchModel, hops: Sequence[Sequence[Traffic]]) -> Result:
    hidden_size = int(json.loads((model.folder / "config.json").read_text())["hidden_size"])
    hidden_bytes = hidden_size * ITEM_BYTES[options.dtype]
    base = [float(hidden_bytes)] * options.repeats
    figures = []
    for i, hop in enumerate(hops):
        name = f"stage {i + 1} to {i + 2}"
        figures += [
            Figure(
                name=f"{name}: bytes a token / hidden bytes",
                unit=BYTES,
                compared=Comparison.of([t.forward for t in hop], base),
                goal=GOAL,
            ),
            Figure(name=f"{name}, both ways", unit=BYTES, compared=Comparison.of([t.both_ways for t in hop], base)),
            Figure(
                name=f"{name}, with the coordinator's",
                unit=BYTES,
                compared=Comparison.of([t.everything for t in hop], base),
            ),
        ]
    fixed = figures[0].compared.subject.median - hidden_bytes
    wide = WIDE * ITEM_BYTES[options.dtype]
    given = {name: value for name, value in asdict(options).items() if name != "num_prompt_tokens"}
    return Result(
        name="wire",
        title=(
            f"bytes on the wire a decode token and hop, {model.title}, hidden size {hidden_size}, {options.dtype}, "
            f"at a prompt of {options.num_prompt_tokens} tokens, medians of {options.repeats}"
        ),
        command=command_line(
            "wire",
            dtype=options.dtype,
            prompt=options.num_prompt_tokens,
            tokens=options.num_tokens,
            stages=options.num_stages,
            repeats=options.repeats,
            model=options.model,
        ),
        table=figures_table(figures),
        notes=(
            "Counted by a TCP relay in front of each stage: payload of the connections; headers of TCP and IP are not.",
            (
                f"Two generations of other prompts, one {options.num_tokens} tokens longer: the difference is decode "
                "alone, one session, one token a frame. Both ways: with the acknowledgements and pings that come back."
            ),
            (
                f"{fixed:.0f} bytes a token are not hidden state. At hidden size {WIDE} the same would be "
                f"{(wide + fixed) / wide:.4f} (computed)."
            ),
        ),
        figures={
            **given,
            "num_prompt_tokens": options.num_prompt_tokens,
            "model": str(model.folder),
            "hidden_bytes": hidden_bytes,
            "hops": [[asdict(t) for t in hop] for hop in hops],
            "figures": [figure.as_json() for figure in figures],
        },
    )


@click.command("wire")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default=Options().dtype, show_default=True)
@count_option("--prompt", "num_prompt_tokens", Options().num_prompt_tokens, "Tokens of the prompt.")
@count_option("--tokens", "num_tokens", Options().num_tokens, "Decode tokens that are counted.")
@count_option("--stages", "num_stages", Options().num_stages, "Of the pipeline.", least=2)
@count_option("--repeats", "repeats", Options().repeats, "Pairs of generations.")
@model_option
@output_options
def command(**given: object) -> None:
    """Bytes that a decode token takes on the wire of a hop, against those of its hidden state."""
    run_asked(run, Options, given)
