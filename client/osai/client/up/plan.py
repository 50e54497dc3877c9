"""What a local swarm runs: spans, threads and command lines. Pure."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from osai.core.errors import InvalidRequestError, SetupError
from osai.core.layers import LayerRange

DEFAULT_NUM_NODES = 3  # enough for a head, a middle and a tail
LOOPBACK = "127.0.0.1"
MEMORY_SHARE = 0.6  # of what is free: the rest is for the programs themselves, loading and the page cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """How the two programs are started; arguments follow."""

    coordinator: tuple[str, ...] = field(default_factory=lambda: (sys.executable, "-m", "osai.coordinator"))
    node: tuple[str, ...] = field(default_factory=lambda: (sys.executable, "-m", "osai.node"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmPlan:
    """A local swarm.

    Attributes:
        checkpoint: folder of the model.
        manifest: file of the signed manifest where it does not lie in the folder.
        trust: file of the public key that signed the manifest.
        spans: one a node, in order; the same span twice makes replicas.
        dtype: of weights, activations and KV; None for the node's default, which is the checkpoint's.
        device: where the nodes compute.
        threads_per_node: so that the nodes together use the cores once.
        memory_per_node: bytes for weights and KV, so that the nodes together do not take more than there is; None
            leaves it to the nodes, each of which then counts on the whole device.
        grpc_port, http_port: the coordinator's; 0 for free ones.
    """

    model_id: str
    checkpoint: Path
    manifest: Path | None = None
    trust: Path
    spans: tuple[LayerRange, ...]
    dtype: str | None = None
    device: str = "cpu"
    threads_per_node: int = 1
    memory_per_node: int | None = None
    grpc_port: int = 0
    http_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorReady:
    """What the coordinator says when it serves. `grpc` is HOST:PORT, `http` a URL."""

    coordinator_id: str
    grpc: str
    http: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReady:
    """What a node says when its spans serve; `edge` is HOST:PORT."""

    node_id: str
    edge: str
    spans: tuple[tuple[str, LayerRange], ...]


def even_spans(num_layers: int, num_nodes: int) -> tuple[LayerRange, ...]:
    """Cut [0, num_layers) into `num_nodes` spans whose lengths differ by one at most, the longer ones first.

    Raises:
        InvalidRequestError: if there are more nodes than layers, or no node.
    """
    if not 1 <= num_nodes <= num_layers:
        raise InvalidRequestError(f"{num_nodes} nodes can't share {num_layers} layers: choose 1 to {num_layers} nodes")
    length, longer = divmod(num_layers, num_nodes)
    starts = [i * length + min(i, longer) for i in range(num_nodes + 1)]
    return tuple(LayerRange(start, end) for start, end in pairwise(starts))


def parse_spans(text: str, num_layers: int) -> tuple[LayerRange, ...]:
    """Read `0:2,2:4,4:6`.

    Raises:
        InvalidRequestError: if a span has another form or reaches past the last layer.
    """
    spans = tuple(LayerRange.parse(part.strip()) for part in text.split(","))
    for span in spans:
        span.check_within(num_layers)
    return spans


def plan_spans(num_layers: int, num_nodes: int | None, spans: str | None) -> tuple[LayerRange, ...]:
    """One span a node, from `--nodes` and `--spans` as far as they are given.

    Raises:
        InvalidRequestError: if they don't fit each other or the model.
    """
    if spans is None:
        return even_spans(num_layers, min(DEFAULT_NUM_NODES, num_layers) if num_nodes is None else num_nodes)
    parsed = parse_spans(spans, num_layers)
    if num_nodes not in {None, len(parsed)}:
        raise InvalidRequestError(f"--spans names {len(parsed)} spans for --nodes {num_nodes}: leave out one of them")
    return parsed


def uncovered(spans: Sequence[LayerRange], num_layers: int) -> tuple[int, ...]:
    """Layers that no span has."""
    return tuple(layer for layer in range(num_layers) if not any(layer in span for span in spans))


def threads_per_node(num_cores: int, num_nodes: int) -> int:
    """Torch threads of each node, so that together they use each core once; at least one."""
    return max(1, num_cores // num_nodes)


def memory_per_node(free_bytes: int, num_nodes: int) -> int:
    """Bytes for each node's weights and KV: an equal share of most of what is free."""
    return int(free_bytes * MEMORY_SHARE) // num_nodes


def coordinator_arguments(plan: SwarmPlan, state: Path) -> list[str]:
    """Arguments of the coordinator's program."""
    return [
        "serve",
        *("--listen", f"{LOOPBACK}:{plan.grpc_port}"),
        *("--http", f"{LOOPBACK}:{plan.http_port}"),
        *("--dht", f"{LOOPBACK}:0"),
        *("--model", str(plan.checkpoint)),
        *(("--manifest", str(plan.manifest)) if plan.manifest else ()),
        *("--trust", str(plan.trust)),
        *("--state", str(state)),
        "--json",
    ]


def node_arguments(plan: SwarmPlan, index: int, coordinator: str, state: Path) -> list[str]:
    """Arguments of node `index`'s program; `coordinator` is HOST:PORT."""
    return [
        *("join", coordinator),
        *("--model", plan.model_id),
        *("--span", str(plan.spans[index])),
        *("--weights", str(plan.checkpoint)),
        *("--trust", str(plan.trust)),
        *(("--dtype", plan.dtype) if plan.dtype else ()),
        *("--device", plan.device),
        *("--listen", f"{LOOPBACK}:0"),
        *("--dht", f"{LOOPBACK}:0"),
        *("--state", str(state)),
        *("--threads", str(plan.threads_per_node)),
        *(("--memory", str(plan.memory_per_node)) if plan.memory_per_node else ()),
        *("--name", node_name(index)),
        "--json",
    ]


def node_name(index: int) -> str:
    """What node `index` is called, counted from 1."""
    return f"node-{index + 1}"


def parse_coordinator_ready(line: bytes) -> CoordinatorReady:
    """Read the coordinator's ready line.

    Raises:
        SetupError: if it is no such line.
    """
    try:
        found = json.loads(line)
        return CoordinatorReady(coordinator_id=str(found["id"]), grpc=str(found["grpc"]), http=str(found["http"]))
    except (ValueError, KeyError, TypeError) as e:
        raise SetupError(f"the coordinator printed {line[:200]!r} where its ready line was due") from e


def parse_node_ready(line: bytes) -> NodeReady:
    """Read a node's ready line.

    Raises:
        SetupError: if it is no such line.
    """
    try:
        found: Any = json.loads(line)
        spans = tuple((str(s["model"]), LayerRange(int(s["start"]), int(s["end"]))) for s in found["spans"])
        return NodeReady(node_id=str(found["id"]), edge=str(found["edge"]), spans=spans)
    except (ValueError, KeyError, TypeError, InvalidRequestError) as e:
        raise SetupError(f"a node printed {line[:200]!r} where its ready line was due") from e
