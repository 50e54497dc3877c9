"""The swarm as a coordinator tells of it, as plain data."""

from dataclasses import dataclass

from osai.core.layers import LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model that the swarm serves.

    Attributes:
        max_context: tokens that prompt and generation may have together.
        covered: whether every layer has a ready node, and their spans join.
        signed: whether its manifest is signed by a key that the coordinator trusts.
        replicas: ready nodes, layer by layer.
        missing: what the nodes present lack to hold it all; empty where they can.
    """

    model_id: str
    num_layers: int
    max_context: int
    covered: bool
    signed: bool
    licence: str
    replicas: tuple[int, ...]
    missing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedSpan:
    """One span on one node. `state` is "loading", "ready" or "failed"; `failure` says why it failed."""

    model_id: str
    span: LayerRange
    dtype: str
    state: str
    verified: bool
    failure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node. `state` is "joining", "ready" or "draining".

    Attributes:
        operator: public key of whoever runs it, in hex, as the coordinator has found it proven; empty: nobody's.
    """

    node_id: str
    name: str
    software: str
    device: str
    memory_bytes: int
    state: str
    spans: tuple[HostedSpan, ...]
    num_sessions: int
    uptime_s: float
    operator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """The swarm at one moment, as one coordinator sees it."""

    coordinator_id: str
    software: str
    http_address: str
    dht_addresses: tuple[str, ...]
    models: tuple[Model, ...]
    nodes: tuple[Node, ...]
    coordinators: tuple[str, ...] = ()  # HOST:PORT of every one that is known, the one asked first
