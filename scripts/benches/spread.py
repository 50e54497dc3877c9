"""Bench `spread`: how many copies of a model its source gives when nodes join together."""

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from scripts.benches.bench_model import BenchModel, bench_model
from scripts.benches.cli import command_line, count_option, model_option, output_options, run_asked
from scripts.benches.counted_files import CountedFiles
from scripts.benches.figure import Figure, Goal, Unit, figures_table
from scripts.benches.program import Program, running
from scripts.benches.report import Result, note
from scripts.benches.samples import Comparison

from osai.client.signing import build_manifest
from osai.client.up.plan import even_spans
from osai.core.identity import Identity
from osai.core.manifest import Manifest, public_key_pem, sign

MODEL_ID = "bench/spread"
READY_DEADLINE_S = 600.0  # eight nodes import torch at once on a few cores
NODE_MEMORY = "1GiB"  # the weights are not the point: a little KV is enough
MEBIBYTES = Unit(name="MiB", scale=2**-20)
GOAL = Goal(bar=1.05, aim=1.05, at_most=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_nodes: that join at once, each with an empty cache.
        num_spans: into which the model is cut; as many nodes host each, as far as they go round.
    """

    num_nodes: int = 8
    num_spans: int = 1
    model: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of it.

    Attributes:
        source_bytes: that the source gave.
        model_bytes: of the tensors and files that the nodes need, each once.
        node_bytes: that all nodes loaded together.
        seconds: from the first byte to the last node that serves.
    """

    source_bytes: int
    model_bytes: int
    node_bytes: int
    seconds: float


async def run(options: Options) -> Result:
    """Let nodes join, and count what the source gives."""
    model = bench_model(options.model, note)
    with tempfile.TemporaryDirectory(prefix="osai-bench-") as folder:
        found = await _spread(options, model, Path(folder))
    return _result(options, model, found)


async def _spread(options: Options, model: BenchModel, folder: Path) -> Found:
    manifest = await asyncio.to_thread(build_manifest, model.folder, MODEL_ID, 1, None)
    publisher = Identity.generate()
    key, file = folder / "publisher.pub", folder / "manifest.json"
    key.write_bytes(public_key_pem(publisher.public_key))
    file.write_bytes(sign(manifest, publisher))
    async with AsyncExitStack() as stack:
        source = stack.enter_context(CountedFiles.running(model.folder))
        coordinator = await stack.enter_async_context(
            running("the coordinator", "osai.coordinator", "serve", *_common(folder / "c", key),
                    "--http", "127.0.0.1:0", "--model", str(model.folder), "--manifest", str(file))
        )  # fmt: skip
        address = str((await coordinator.answer(READY_DEADLINE_S))["grpc"])
        spans = even_spans(model.num_layers, options.num_spans)
        nodes = [
            await stack.enter_async_context(
                running(f"node {i}", "osai.node", "join", address, *_common(folder / f"n{i}", key),
                        *_node(folder / f"n{i}", source.url, str(spans[i % len(spans)])), OMP_NUM_THREADS="1")
            )
            for i in range(options.num_nodes)
        ]  # fmt: skip
        seconds = await _all_ready(nodes, source)
        source_bytes = source.counted.total()
    whole = _needed_bytes(manifest)
    shares = [spans[i % len(spans)] for i in range(options.num_nodes)]
    node_bytes = whole * sum(len(span) for span in shares) // model.num_layers
    return Found(source_bytes=source_bytes, model_bytes=whole, node_bytes=node_bytes, seconds=seconds)


async def _all_ready(nodes: list[Program], source: CountedFiles) -> float:
    """Seconds from the source's first byte until every node serves."""
    begun_s = time.perf_counter()
    waiting = asyncio.gather(*(node.answer(READY_DEADLINE_S) for node in nodes))
    while not waiting.done():
        if not source.counted:
            begun_s = time.perf_counter()
        await asyncio.wait([waiting], timeout=0.1)
    await waiting
    note(f"the source gave {MEBIBYTES.show(source.counted.total())} to {len(nodes)} nodes")
    return time.perf_counter() - begun_s


def _common(state: Path, key: Path) -> list[str]:
    return ["--listen", "127.0.0.1:0", "--dht", "127.0.0.1:0", "--json", "--state", str(state), "--trust", str(key)]


def _node(folder: Path, url: str, span: str) -> list[str]:
    return ["--model", MODEL_ID, "--weights", url, "--span", span, "--cache", str(folder / "cache"),
            "--cache-size", "20GiB", "--memory", NODE_MEMORY, "--threads", "1", "--device", "cpu"]  # fmt: skip


def _needed_bytes(manifest: Manifest) -> int:
    """Of the distinct chunks of what a whole pipeline reads: every tensor, and the config."""
    needed = {chunk.sha256: chunk.size_bytes for entry in manifest.tensors for chunk in manifest.chunks_of(entry)}
    return sum(needed.values()) + sum(file.size_bytes for file in manifest.files if file.path == "config.json")


def _result(options: Options, model: BenchModel, found: Found) -> Result:
    figure = Figure(
        name="from the source / the model once",
        unit=MEBIBYTES,
        compared=Comparison.of([found.source_bytes], [found.model_bytes]),
        goal=GOAL,
    )
    spans = "the whole of it" if options.num_spans == 1 else f"one of {options.num_spans} spans of it"
    return Result(
        name="spread",
        title=f"what the source gives of a {model.title} when {options.num_nodes} nodes join at once, each {spans}",
        command=command_line("spread", nodes=options.num_nodes, spans=options.num_spans, model=options.model),
        table=figures_table([figure]),
        notes=(
            "Real node processes of a public swarm on loopback, each with an empty cache of its own.",
            "The source is a web server on loopback that counts the bytes of its answers.",
            f"The nodes loaded {MEBIBYTES.show(found.node_bytes)} together; each gives others 32 MiB a second at most.",
            f"{found.seconds:.0f} s went by from the source's first byte to the last node that serves.",
        ),
        figures={**asdict(options), **asdict(found), "figures": [figure.as_json()]},
    )


@click.command("spread")
@count_option("--nodes", "num_nodes", Options().num_nodes, "That join at once.", least=2)
@count_option("--spans", "num_spans", Options().num_spans, "Into which the model is cut.")
@model_option
@output_options
def command(**given: object) -> None:
    """Copies of a model that its source gives when nodes join together."""
    run_asked(run, Options, given)
