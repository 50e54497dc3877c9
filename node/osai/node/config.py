"""What `osai-node join` was told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from osai.core.layers import LayerRange
from osai.core.manifest import TrustPolicy
from osai.node.budgets import BudgetConfig
from osai.node.stages.journal import DEFAULT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A model that this node is to host.

    Attributes:
        model_id: empty for whatever the coordinator needs most, or with layers for the only model that it serves.
        layers: None to leave the span to the coordinator.
        weights: local folder, hub id or URL; empty for where the coordinator says they are.
    """

    model_id: str = ""
    layers: LayerRange | None = None
    weights: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node.

    Attributes:
        address: a coordinator's HOST:PORT, or the libp2p multiaddr of any member.
        wishes: what to host; never empty.
        listen: HOST:PORT of the edge service; port 0 takes a free one.
        announce: HOST or HOST:PORT under which peers reach this node; empty for the listening address.
        dht_listen: HOST:PORT of libp2p; port 0 takes a free one.
        state_dir: keeps the node's identity.
        trust: keys whose manifests are believed.
        allow_unsigned: host models whose manifest no trusted key has signed; such a node is marked.
        device: "cpu", "cuda" or "cuda:N".
        dtype: of weights, activations and KV: "float32", "bfloat16", "float16", or "auto" for the checkpoint's.
        quantization: of linear weights: "none", "int8", "int4" or "fp8".
        accepted_licences: names of licences that the operator has accepted, for models that ask for it.
        memory_bytes: for weights and KV together.
        num_threads: torch's threads; None for one a physical core.
        name: public name.
        token: lets the node into a private swarm; empty in a public one, or where it has joined before.
        operator_key: private key of whoever runs the node; None: it does not say who.
        join_deadline_s: how long to look for a coordinator at the start; 20 s covers one that is still starting.
        drain_deadline_s: how long sessions may go on after SIGTERM.
        journal_bytes: for what is kept of the rows put out, so that a lost successor can be rebuilt without running
            them again; not part of memory_bytes. The default, 256 MiB, holds 32 sessions of 1,024 tokens of a hidden
            size of 4096 in 16 bits; 0 keeps nothing.
        cache_dir: keeps chunks of weights that came over the network; None keeps none.
        cache_bytes: of it; None for a tenth of what the disk has free.
        budgets: what one peer may take of this node.
        serve_bytes_s: of weights that other nodes get from this one, a second; 0 gives none.
        metrics_listen: HOST:PORT of `/metrics`; empty: there is none.
        traces: address of an OpenTelemetry collector; empty: nothing is traced.
    """

    address: str
    wishes: tuple[Wish, ...]
    listen: str
    announce: str
    dht_listen: str
    state_dir: Path
    trust: TrustPolicy
    allow_unsigned: bool
    device: str
    dtype: str
    memory_bytes: int
    num_threads: int | None
    name: str
    quantization: Literal["none", "int8", "int4", "fp8"] = "none"
    accepted_licences: frozenset[str] = frozenset()
    journal_bytes: int = DEFAULT_BYTES
    cache_dir: Path | None = None
    cache_bytes: int | None = None
    serve_bytes_s: int = 0
    budgets: BudgetConfig = field(default_factory=BudgetConfig)
    token: str = field(default="", repr=False)
    operator_key: Path | None = None
    join_deadline_s: float = 20.0
    drain_deadline_s: float = 30.0
    metrics_listen: str = ""
    traces: str = field(default="", repr=False)

    @property
    def announced_dtype(self) -> str:
        """What a coordinator is told that this node runs in: `auto`, `bfloat16`, `auto+int8`."""
        return self.dtype if self.quantization == "none" else f"{self.dtype}+{self.quantization}"
