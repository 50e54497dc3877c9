"""What `osai-coordinator serve` was told."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from osai.coordinator.admission import QueueConfig
from osai.coordinator.sessions.config import SupervisionConfig
from osai.core.errors import SetupError
from osai.core.manifest import TrustPolicy

DEFAULT_STATE = Path("~/.local/state/osai/coordinator")
DEFAULT_COVERAGE_WAIT_S = SupervisionConfig().coverage_wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model to serve: the folder of its config, tokenizer and manifest; no weights are read from it."""

    folder: Path
    manifest: Path | None  # None: osai-manifest.json in the folder


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """One coordinator.

    Attributes:
        listen: HOST:PORT of gRPC, for clients and nodes; port 0 takes a free one.
        http_listen: HOST:PORT of the HTTP API and the health page.
        http_tls: files of its certificate and key; None: plain HTTP.
        dht_listen: HOST:PORT of libp2p.
        announce: HOST under which nodes and clients reach this machine; empty for the listening one.
        dht_peers: libp2p multiaddrs of members of the swarm to join; none founds a new one.
        state_dir: keeps the coordinator's identity.
        trust: keys whose manifests are believed.
        allow_unsigned: serve models whose manifest no trusted key has signed; they are marked.
        queue: of the requests that find no KV free.
        standby: let a second node of the same span follow each stage, so that its loss costs milliseconds.
        swarm_dir: folder of a private swarm's authority, which this coordinator holds; None for a public swarm, or a
            private one whose authority another coordinator holds.
        authority: HOST:PORT of that other coordinator; empty in a public swarm.
        token: by which this coordinator joins it; empty where it has joined before.
        keys_file: API keys that clients need; None: they need none.
        coverage_wait_s: how long a session waits for nodes where part of its model has none.
        traces: address of an OpenTelemetry collector; empty: nothing is traced.
    """

    listen: str
    http_listen: str
    dht_listen: str
    announce: str
    dht_peers: tuple[str, ...]
    state_dir: Path
    models: tuple[ModelConfig, ...]
    trust: TrustPolicy
    allow_unsigned: bool
    queue: QueueConfig = field(default_factory=QueueConfig)
    standby: bool = False
    swarm_dir: Path | None = None
    authority: str = ""
    token: str = field(default="", repr=False)
    keys_file: Path | None = None
    http_tls: tuple[Path, Path] | None = None
    coverage_wait_s: float = DEFAULT_COVERAGE_WAIT_S
    traces: str = field(default="", repr=False)

    @property
    def is_private(self) -> bool:
        """Whether members alone get in."""
        return self.swarm_dir is not None or bool(self.authority)

    def check(self) -> None:
        """Refuse what would not do what its operator expects.

        Raises:
            SetupError: saying what to do.
        """
        host, _, port = self.http_listen.rpartition(":")
        if not port.isdecimal():
            raise SetupError(f"{self.http_listen!r} is no address; write --http HOST:PORT")
        if self.is_private and self.keys_file is None and not _is_loopback(host):  # A9
            raise SetupError(
                f"in a private swarm HTTP at {self.http_listen} would be open to whoever reaches it: give clients keys "
                "(--require-keys, `osai-coordinator key create`), or listen on loopback (--http 127.0.0.1:8080)"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
