"""The `osai-coordinator` command."""

import json
from pathlib import Path

import click
import uvloop

from osai.coordinator.admission import QueueConfig
from osai.coordinator.config import DEFAULT_COVERAGE_WAIT_S, DEFAULT_STATE, CoordinatorConfig, ModelConfig
from osai.coordinator.key_commands import key_group
from osai.coordinator.keys.store import KEYS_FILE
from osai.core.config_commands import config_group
from osai.core.config_file import config_option
from osai.core.embedded import model_dir
from osai.core.errors import SetupError, UnavailableError
from osai.core.logs import LogFormat, configure_logs
from osai.core.program_options import log_options, traces_option
from osai.core.protocol import software
from osai.core.reporting import ReportingGroup
from osai.core.trust_files import read_trust

HEALTH_TIMEOUT_S = 3.0
OPEN_HTTP, LOOPBACK_HTTP = "0.0.0.0:8080", "127.0.0.1:8080"


@click.group(cls=ReportingGroup, context_settings={"auto_envvar_prefix": "OSAI_COORDINATOR"})
@click.version_option(message="%(version)s", version=software())
def main() -> None:
    """Run a coordinator of an osai swarm."""


main.add_command(key_group)


SERVE_EXAMPLES = """
\b
Examples:
  # the embedded model; nodes join with `osai-node join THIS_HOST:7070`
  osai-coordinator serve
  # two models of publishers that you trust, in a swarm that exists already
  osai-coordinator serve --model /models/a --model /models/b --trust a.pub --trust b.pub \\
      --join /ip4/10.0.0.7/tcp/31337/p2p/QmPeer
"""


@main.command(epilog=SERVE_EXAMPLES)
@config_option
@click.option("--listen", default="0.0.0.0:7070", show_default=True, help="HOST:PORT of gRPC; port 0: a free one.")
@click.option("--http", "http_listen", default="", show_default=f"{OPEN_HTTP}; {LOOPBACK_HTTP} in a private swarm",
              help="HOST:PORT of the HTTP API and the health page.")  # fmt: skip
@click.option("--http-cert", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="PEM certificate (chain) of the HTTP API: it speaks HTTPS then.")  # fmt: skip
@click.option("--http-key", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="PEM key of --http-cert.")  # fmt: skip
@click.option("--dht", "dht_listen", default="0.0.0.0:0", show_default=True, help="HOST:PORT of libp2p.")
@click.option("--announce", default="", help="HOST under which others reach this machine; default: as in --listen.")
@click.option("--join", "dht_peers", multiple=True, help="libp2p address of a member of the swarm. Repeatable.")
@click.option("--model", "folders", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder with config, tokenizer and manifest; default: the embedded model. Repeatable.")  # fmt: skip
@click.option("--manifest", "manifests", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Manifest of the model, where it is not in its folder. One a --model.")  # fmt: skip
@click.option("--trust", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Key or key list (`osai trust`) of a publisher whose models are believed. Repeatable.")  # fmt: skip
@click.option("--allow-unsigned", is_flag=True, help="Serve models that no trusted key has signed; they are marked.")
@click.option("--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True,
              help="Folder that keeps the coordinator's identity.")  # fmt: skip
@click.option("--max-queued", type=click.IntRange(min=0), default=QueueConfig().max_queued, show_default=True,
              help="Requests for a model that wait at most while no KV is free; further ones are refused.")  # fmt: skip
@click.option("--queue-timeout", "queue_timeout_s", type=click.FloatRange(min=0.0), show_default=True,
              default=QueueConfig().timeout_s, help="Seconds that a request waits at most.")  # fmt: skip
@click.option("--standby", is_flag=True,
              help="Let a second node of the same span follow each stage: its loss then costs milliseconds, and every "
              "token is computed twice.")  # fmt: skip
@click.option("--coverage-wait", "coverage_wait_s", type=click.FloatRange(min=0.0), show_default=True,
              default=DEFAULT_COVERAGE_WAIT_S,
              help="Seconds that a session waits for nodes where part of its model has none.")  # fmt: skip
@click.option("--swarm", "swarm_dir", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of a private swarm, from `osai swarm create`: members alone get in.")  # fmt: skip
@click.option("--authority", default="", metavar="HOST:PORT",
              help="Be one more coordinator of the private swarm whose --swarm this other one holds.")  # fmt: skip
@click.option(
    "--token", default="", hide_input=True, help="By which it joins that swarm: `osai swarm invite --role coordinator`."
)
@click.option("--require-keys", is_flag=True, help="Serve only clients with an API key: `osai-coordinator key create`.")
@click.option("--keys", "keys_file", type=click.Path(path_type=Path, dir_okay=False),
              help=f"File of those keys. Default: {KEYS_FILE} in the --state folder.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line when ready.")
@traces_option("OSAI_COORDINATOR_SERVE")
@log_options
def serve(
    listen: str,
    http_listen: str,
    http_cert: Path | None,
    http_key: Path | None,
    dht_listen: str,
    announce: str,
    dht_peers: tuple[str, ...],
    folders: tuple[Path, ...],
    manifests: tuple[Path, ...],
    trust: tuple[Path, ...],
    allow_unsigned: bool,
    state: Path,
    max_queued: int,
    queue_timeout_s: float,
    standby: bool,
    coverage_wait_s: float,
    swarm_dir: Path | None,
    authority: str,
    token: str,
    require_keys: bool,
    keys_file: Path | None,
    as_json: bool,
    traces: str,
    log_level: str,
    log_format: LogFormat,
) -> None:
    """Serve models from the nodes that join."""
    configure_logs(log_level, log_format)
    # these bring torch (through hivemind); `osai-coordinator --help` must not wait for it
    from osai.coordinator.run import Addresses, run_coordinator  # noqa: PLC0415

    if manifests and len(manifests) != len(folders):
        raise SetupError(f"{len(manifests)} times --manifest for {len(folders)} models: give one a --model")
    is_private = swarm_dir is not None or bool(authority)
    http_listen = http_listen or (LOOPBACK_HTTP if is_private and not require_keys else OPEN_HTTP)
    if keys_file and not require_keys:
        raise SetupError("--keys alone lets everybody in: say --require-keys too")
    config = CoordinatorConfig(
        listen=listen,
        http_listen=http_listen,
        http_tls=(http_cert, http_key) if http_cert and http_key else None,
        dht_listen=dht_listen,
        announce=announce,
        dht_peers=dht_peers,
        state_dir=state.expanduser(),
        models=tuple(
            ModelConfig(folder=folder, manifest=manifests[i] if manifests else None)
            for i, folder in enumerate(folders or (model_dir(),))
        ),
        trust=read_trust(trust),
        allow_unsigned=allow_unsigned,
        queue=QueueConfig(max_queued=max_queued, timeout_s=queue_timeout_s),
        standby=standby,
        coverage_wait_s=coverage_wait_s,
        swarm_dir=swarm_dir,
        authority=authority,
        token=token,
        keys_file=(keys_file or state / KEYS_FILE).expanduser() if require_keys else None,
        traces=traces,
    )

    def on_ready(at: Addresses) -> None:
        if as_json:
            click.echo(json.dumps({"id": at.coordinator_id, "grpc": at.grpc, "http": at.http, "dht": at.dht}))
            return
        click.echo(f"clients:  osai generate --coordinator {at.grpc} PROMPT")
        click.echo(f"nodes:    osai-node join {at.grpc}")
        click.echo(f"page:     {at.http}")
        for address in at.dht:
            click.echo(f"DHT:      {address}")

    uvloop.run(run_coordinator(config, on_ready))


@main.command()
@click.option("--address", default="127.0.0.1:7070", show_default=True, help="HOST:PORT of the coordinator's gRPC.")
@click.option("--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True,
              help="Its state folder: in a private swarm it holds the certificate that is shown.")  # fmt: skip
def health(address: str, state: Path) -> None:
    """Exit with 0 if the coordinator at ADDRESS serves, else with 1."""
    from osai.core.admission import Role  # noqa: PLC0415
    from osai.core.private_member import kept_tls  # noqa: PLC0415
    from osai.core.standard_services import is_serving  # noqa: PLC0415

    tls = kept_tls(state.expanduser(), Role.COORDINATOR)
    if not uvloop.run(is_serving(address, HEALTH_TIMEOUT_S, tls)):
        raise UnavailableError(f"the coordinator at {address} runs, but does not serve yet")
    click.echo("serving")


main.add_command(config_group(serve, "serve"))
