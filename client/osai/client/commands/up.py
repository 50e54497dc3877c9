"""`osai up`: a swarm on this machine."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from osai.client.signing import checkpoint_bytes
from osai.client.up.checkpoint import Checkpoint, open_checkpoint, read_facts
from osai.client.up.child import ChildEndedError
from osai.client.up.plan import SwarmPlan, memory_per_node, plan_spans, threads_per_node, uncovered
from osai.client.up.report import note
from osai.client.up.run import run_swarm
from osai.core.embedded import model_dir
from osai.core.errors import SetupError
from osai.core.manifest import MANIFEST_FILE
from osai.core.sizes import parse_bytes

_NEEDED = ("torch", "transformers", "hivemind", "fastapi", "uvloop")  # of osai[all]; a glance before processes fail


@click.command("up")
@click.option(
    "--model",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Checkpoint folder in HF layout; default: the small model osai/shakespeare (pip install osai-embedded).",
)
@click.option("--nodes", metavar="N", type=int, help="Number of nodes; default: 3, or one a layer if there are fewer.")
@click.option("--spans", metavar="0:2,2:4,4:6", help="One span of layers a node, in order; the same twice: replicas.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of weights, activations and KV; default: the checkpoint's.",
)
@click.option("--device", default="cpu", show_default=True, help="Of every node; several share one GPU badly.")
@click.option("--threads", metavar="N", type=click.IntRange(min=1), help="Of each node; default: cores / nodes.")
@click.option("--memory", metavar="SIZE", help="Of each node, as in 4GiB; default: a share of what is free.")
@click.option(
    "--trust",
    metavar="PUB",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Public key of the publisher who signed DIR.",
)
@click.option("--grpc-port", metavar="PORT", type=click.IntRange(0, 65535), default=0, help="Default: a free one.")
@click.option("--http-port", metavar="PORT", type=click.IntRange(0, 65535), default=0, help="Default: a free one.")
@click.option("--verbose", is_flag=True, help="Show the logs of all processes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready in place of the table.")
def up(
    *,
    folder: Path | None,
    nodes: int | None,
    spans: str | None,
    dtype: str | None,
    device: str,
    threads: int | None,
    memory: str | None,
    trust: Path | None,
    grpc_port: int,
    http_port: int,
    verbose: bool,
    as_json: bool,
) -> None:
    """Run a swarm on this machine.

    One coordinator and N nodes are started, each node with a part of the model. It stays in the foreground until
    Ctrl-C or SIGTERM, which stop everything. An unsigned checkpoint is signed for this swarm alone, with a key made on
    the spot.

    \b
    Examples:
      osai up
      osai up --model ./my-model --nodes 2 --dtype float32
      osai up --spans 0:3,3:6,3:6 --json
    """  # noqa: D301 (click reads the escape)
    _check_installed()
    scratch = Path(tempfile.mkdtemp(prefix="osai-up-"))
    keep_logs = True  # where there are any: they say what failed
    try:
        planned = plan_spans(read_facts(folder or model_dir()).num_layers, nodes, spans)
        checkpoint = _open(folder, trust, scratch)  # an unsigned one is hashed whole, which may take long
        _tell(checkpoint, scratch, uncovered(planned, checkpoint.num_layers))
        plan = SwarmPlan(
            model_id=checkpoint.model_id,
            checkpoint=checkpoint.folder,
            manifest=checkpoint.manifest,
            trust=checkpoint.trust,
            spans=planned,
            dtype=dtype,
            device=device,
            threads_per_node=threads or threads_per_node(len(os.sched_getaffinity(0)), len(planned)),
            memory_per_node=_memory(memory, device, len(planned)),
            grpc_port=grpc_port,
            http_port=http_port,
        )
        outcome = asyncio.run(run_swarm(plan, scratch, json_output=as_json, verbose=verbose))
        keep_logs = outcome.lost
    except ChildEndedError as e:
        if not verbose:  # it is on the screen already
            click.echo(e.tail, err=True)
        raise
    finally:
        if not keep_logs or not any(scratch.glob("*.log")):
            shutil.rmtree(scratch, ignore_errors=True)
    sys.exit(outcome.exit_status)


def _memory(given: str | None, device: str, num_nodes: int) -> int | None:
    if given:
        return parse_bytes(given)
    if device != "cpu":
        return None  # what a GPU has free is for the nodes to find out
    return memory_per_node(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), num_nodes)


def _check_installed() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise SetupError(f"`osai up` also needs {', '.join(missing)}: pip install 'osai[all]'")


def _open(folder: Path | None, trust: Path | None, scratch: Path) -> Checkpoint:
    unsigned = folder is not None and not (folder / MANIFEST_FILE).exists()
    if folder is None or not unsigned:
        return open_checkpoint(folder, trust, scratch)
    with _hashing(checkpoint_bytes(folder)) as on_bytes:
        return open_checkpoint(folder, trust, scratch, on_bytes)


def _tell(checkpoint: Checkpoint, scratch: Path, gaps: tuple[int, ...]) -> None:
    if checkpoint.signed_here:
        note(f"{checkpoint.folder} is unsigned: signed for this swarm alone, as {checkpoint.model_id}, with a new key")
    if gaps:
        note(f"no span has layer {', '.join(map(str, gaps))}: nothing can be generated until a node joins with them")
    note(f"logs are in {scratch}")


@contextmanager
def _hashing(total_bytes: int) -> Iterator[Callable[[int], None] | None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(TextColumn("signing"), BarColumn(), DownloadColumn(), console=console, transient=True) as progress:
        task = progress.add_task("signing", total=total_bytes)
        yield lambda count: progress.advance(task, count)
