"""The `osai-node` command."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import uvloop

from osai.core.config_commands import config_group
from osai.core.config_file import config_option
from osai.core.errors import SetupError, UnavailableError
from osai.core.layers import LayerRange
from osai.core.logs import LogFormat, configure_logs
from osai.core.privacy import privacy_line
from osai.core.program_options import log_options, traces_option
from osai.core.protocol import software
from osai.core.reporting import ReportingGroup
from osai.core.sizes import parse_bytes
from osai.core.trust_files import read_trust
from osai.node.bench_cli import bench
from osai.node.budget_cli import budget_options
from osai.node.budgets import BudgetConfig
from osai.node.cache_cli import cache, cache_options
from osai.node.config import NodeConfig, Wish
from osai.node.cores import default_num_threads
from osai.node.doctor.command import doctor_command
from osai.node.machine import prepare_cores
from osai.node.pid_file import leave, running_here
from osai.node.stages.journal import DEFAULT_BYTES

if TYPE_CHECKING:
    from osai.node.membership import SpanStatus
    from osai.node.record import NodeFacts

DEFAULT_STATE = Path("~/.local/state/osai/node")
HEALTH_TIMEOUT_S = 3.0


@click.group(cls=ReportingGroup, context_settings={"auto_envvar_prefix": "OSAI_NODE"})
@click.version_option(message="%(version)s", version=software())
def main() -> None:
    """Lend this machine to an osai swarm."""


JOIN_EXAMPLES = """
\b
Examples:
  # whatever the swarm needs most, of any model whose publisher you trust
  osai-node join swarm.example.org:7070 --trust publisher.pub
  # layers 0 to 8 of one model, from a folder, on the first GPU
  osai-node join 10.0.0.5:7070 --model org/model --span 0:8 --weights /models/model --trust org.pub --device cuda
  # through any member's libp2p address
  osai-node join /ip4/10.0.0.7/tcp/31337/p2p/QmPeer --model org/model --weights org/model --memory 6GiB
"""


@main.command(epilog=JOIN_EXAMPLES)
@click.argument("address", default="", envvar="OSAI_NODE_JOIN_ADDRESS")
@config_option
@click.option("--model", "models", multiple=True, help="Model to host; default: what the swarm needs. Repeatable.")
@click.option("--span", "spans", multiple=True, help="Layers START:END to host; default: assigned. One a --model.")
@click.option("--weights", multiple=True, help="Folder, hub id or URL of the checkpoint. One a --model.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--dtype", default="auto", show_default=True, help="auto (the checkpoint's), float32, bfloat16, float16.")
@click.option("--quantize", default="none", show_default=True, type=click.Choice(["none", "int8", "int4", "fp8"]),
              help="Linear weights in fewer bits; int4, fp8 on GPUs. A pipeline's nodes must agree.")  # fmt: skip
@click.option("--memory", default=None, help="For weights and KV together, as in 6GiB; default: most of what is free.")
@click.option("--journal", default=f"{DEFAULT_BYTES // 2**20}MiB", show_default=True,
              help="For rows put out, from which a lost neighbour is rebuilt. Besides --memory.")  # fmt: skip
@cache_options
@budget_options
@click.option("--serve-rate", default="32MiB", show_default=True,
              help="Bytes a second of weights that other nodes may get from this one; 0: none.")  # fmt: skip
@click.option("--listen", default="0.0.0.0:0", show_default=True, help="HOST:PORT of the edge; port 0: a free one.")
@click.option("--announce", default="", help="HOST or HOST:PORT under which peers reach this node.")
@click.option("--dht", "dht_listen", default="0.0.0.0:0", show_default=True, help="HOST:PORT of libp2p.")
@click.option("--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True,
              help="Folder that keeps the node's identity.")  # fmt: skip
@click.option("--trust", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Key or key list (`osai trust`) of a publisher whose models are believed. Repeatable.")  # fmt: skip
@click.option(
    "--token",
    default="",
    hide_input=True,
    help="Lets this node into a private swarm: from `osai swarm invite`. Good once.",
)
@click.option("--operator", "operator_key", metavar="KEY.pem",
              type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Your key (`osai key create`): tells everybody that this node is yours.")  # fmt: skip
@click.option("--allow-unsigned", is_flag=True, help="Host models that no trusted key has signed; the node is marked.")
@click.option("--accept-licence", "accepted_licences", multiple=True, metavar="NAME",
              help="Licence that you accept, for models that ask for it. Repeatable.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=None, help="Torch's threads; default: one a core.")
@click.option(
    "--numa", type=click.IntRange(min=0), default=None, help="Run on this NUMA node's cores and memory alone."
)
@click.option("--name", default="", help="Public name of this node, on the health page too; without one it is unnamed.")
@click.option("--drain-timeout", type=click.FloatRange(min=0), default=30.0, show_default=True,
              help="Seconds that running sessions get after SIGTERM.")  # fmt: skip
@click.option("--join-timeout", type=click.FloatRange(min=0), default=20.0, show_default=True,
              help="Seconds to look for a first coordinator.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@click.option(
    "--metrics",
    "metrics_listen",
    default="",
    metavar="HOST:PORT",
    help="Serve Prometheus metrics there, as in 127.0.0.1:9090; a port alone: on loopback. Default: nowhere.",
)
@traces_option("OSAI_NODE_JOIN")
@log_options
def join(
    address: str,
    models: tuple[str, ...],
    spans: tuple[str, ...],
    weights: tuple[str, ...],
    device: str,
    dtype: str,
    quantize: Literal["none", "int8", "int4", "fp8"],
    memory: str | None,
    journal: str,
    cache_dir: Path | None,
    cache_bytes: int | None,
    budgets: BudgetConfig,
    serve_rate: str,
    listen: str,
    announce: str,
    dht_listen: str,
    state: Path,
    trust: tuple[Path, ...],
    token: str,
    operator_key: Path | None,
    allow_unsigned: bool,
    accepted_licences: tuple[str, ...],
    threads: int | None,
    numa: int | None,
    name: str,
    drain_timeout: float,
    join_timeout: float,
    as_json: bool,
    metrics_listen: str,
    traces: str,
    log_level: str,
    log_format: LogFormat,
) -> None:
    """Join the swarm at ADDRESS: a coordinator's HOST:PORT, or the libp2p multiaddr of any member."""
    configure_logs(log_level, log_format)
    if not address:
        raise SetupError("say where the swarm is: osai-node join HOST:PORT, or `address` in the file of --config")
    prepare_cores(numa)
    # these bring torch; `osai-node --help` must not wait for it
    from osai.node.device import check_dtype, choose_dtype, find_device  # noqa: PLC0415
    from osai.node.display import NodeDisplay  # noqa: PLC0415
    from osai.node.engine.quantize import check_quantization  # noqa: PLC0415
    from osai.node.engine.quantize_torchao import check_torchao  # noqa: PLC0415
    from osai.node.found import Found, found_lines, network_links  # noqa: PLC0415
    from osai.node.run import run_node  # noqa: PLC0415

    found = find_device(device)
    if dtype != "auto":  # else it is known once the checkpoint is, and checked then
        check_dtype(choose_dtype(dtype, ""), found)
    check_torchao(check_quantization(quantize, found.type, choose_dtype(dtype, ""), found.capability), found.type)
    config = NodeConfig(
        address=address,
        wishes=_wishes(models, spans, weights),
        listen=listen,
        announce=announce,
        dht_listen=dht_listen,
        state_dir=state.expanduser(),
        trust=read_trust(trust),
        token=token,
        operator_key=operator_key,
        allow_unsigned=allow_unsigned,
        accepted_licences=frozenset(accepted_licences),
        device=found.spec,
        dtype=dtype,
        quantization=quantize,
        memory_bytes=parse_bytes(memory) if memory else found.free_bytes,
        journal_bytes=parse_bytes(journal),
        cache_dir=cache_dir,
        cache_bytes=cache_bytes,
        budgets=budgets,
        serve_bytes_s=0 if serve_rate == "0" else parse_bytes(serve_rate),
        num_threads=threads or default_num_threads(),
        name=name,
        join_deadline_s=join_timeout,
        drain_deadline_s=drain_timeout,
        metrics_listen=metrics_listen,
        traces=traces,
    )
    display = NodeDisplay()
    with running_here(config.state_dir):
        display.found(
            found_lines(
                Found(
                    device=found.description,
                    memory_bytes=config.memory_bytes,
                    free_bytes=found.free_bytes,
                    num_threads=threads or default_num_threads(),
                    links=network_links(),
                )
            )
        )
        uvloop.run(run_node(config, partial(_say_ready, as_json=as_json), display))


def _say_ready(facts: "NodeFacts", ready: tuple["SpanStatus", ...], *, as_json: bool) -> None:
    """Print what this node serves."""
    if as_json:
        served = [{"model": span.model_id, "start": span.layers.start, "end": span.layers.end} for span in ready]
        click.echo(json.dumps({"id": facts.node_id, "edge": facts.edge_address, "spans": served}))
        return
    for span in ready:
        click.echo(f"serving layers {span.layers} of {span.model_id} on {facts.device}, {span.dtype}, at "
                   f"{facts.edge_address}; {1 / max(span.step_time_s, 1e-9):.0f} steps/s")  # fmt: skip
    click.echo(f"{privacy_line(is_private=facts.is_private)} See docs/privacy.md.")


@main.command("leave")
@click.option("--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True,
              help="State folder of the node that is to leave.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=60.0, show_default=True,
              help="Seconds to wait until it has left.")  # fmt: skip
def leave_command(state: Path, timeout_s: float) -> None:
    """End the node of this machine gently: its sessions are handed over to other nodes first."""
    click.echo(leave(state.expanduser(), timeout_s))


@main.command()
@click.option("--address", default="127.0.0.1:7071", show_default=True, help="HOST:PORT of the node's edge.")
@click.option("--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True,
              help="Its state folder: in a private swarm it holds the certificate that is shown.")  # fmt: skip
def health(address: str, state: Path) -> None:
    """Exit with 0 if the node at ADDRESS serves, else with 1."""
    from osai.core.admission import Role  # noqa: PLC0415
    from osai.core.private_member import kept_tls  # noqa: PLC0415
    from osai.core.standard_services import is_serving  # noqa: PLC0415

    tls = kept_tls(state.expanduser(), Role.NODE)
    if not uvloop.run(is_serving(address, HEALTH_TIMEOUT_S, tls)):
        raise UnavailableError(f"the node at {address} runs, but does not serve yet")
    click.echo("serving")


main.add_command(bench)
main.add_command(cache)
main.add_command(doctor_command(join))
main.add_command(config_group(join, "join"))


def _wishes(models: tuple[str, ...], spans: tuple[str, ...], weights: tuple[str, ...]) -> tuple[Wish, ...]:
    count = max(len(models), 1)
    for option, values in (("--span", spans), ("--weights", weights)):
        if values and len(values) != count:
            raise SetupError(f"{len(values)} times {option} for {count} models: give one a --model, in the same order")
    names = models or ("",)
    return tuple(
        Wish(
            model_id=name,
            layers=LayerRange.parse(spans[i]) if spans else None,
            weights=weights[i] if weights else "",
        )
        for i, name in enumerate(names)
    )
