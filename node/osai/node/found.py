"""What a node has found of its machine, and why it hosts what it hosts, in words for its operator. Without torch."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psutil

from osai.node.config import Wish
from osai.node.membership_actions import Assigned

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkLink:
    """A network interface that is up.

    Attributes:
        addresses: of IPv4 and IPv6, those of the link alone left out.
        mbit_s: what it is rated at; 0 where the system does not say.
    """

    name: str
    addresses: tuple[str, ...]
    mbit_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is to work with.

    Attributes:
        device: in words.
        memory_bytes: for weights and KV together.
        free_bytes: that a node would take unless told otherwise.
        num_threads: of the engine.
    """

    device: str
    memory_bytes: int
    free_bytes: int
    num_threads: int
    links: tuple[NetworkLink, ...]


def network_links() -> tuple[NetworkLink, ...]:
    """The interfaces by which others may reach this machine."""
    stats, found = psutil.net_if_stats(), []
    for name, addresses in psutil.net_if_addrs().items():
        state = stats.get(name)
        usable = tuple(each.address for each in addresses if _is_reachable(each.family, each.address))
        if state is not None and state.isup and usable:
            found.append(NetworkLink(name=name, addresses=usable, mbit_s=state.speed))
    return tuple(found)


def _is_reachable(family: int, address: str) -> bool:
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    at = ipaddress.ip_address(address.partition("%")[0])
    return not (at.is_loopback or at.is_link_local)


def found_lines(found: Found) -> list[str]:
    """Device, memory and links, a line each."""
    links = ", ".join(_link(link) for link in found.links) or "none but loopback: no other machine reaches this one"
    return [
        f"device: {found.device}, {found.num_threads} threads",
        f"memory: {found.memory_bytes / GIB:.1f} GiB for weights and KV; {found.free_bytes / GIB:.1f} GiB could be had",
        f"links: {links}",
    ]


def _link(link: NetworkLink) -> str:
    rated = f" ({link.mbit_s / 1000:g} Gbit/s)" if link.mbit_s else ""
    return f"{link.name} {' '.join(link.addresses)}{rated}"


def reason_of(assigned: Assigned, wishes: Sequence[Wish]) -> str:
    """Why the node is given a span, as far as the assignment and what the operator asked for tell."""
    if assigned.urgent:
        return "the model has no whole pipeline until these layers are served"
    if _asked_for_layers(assigned, wishes):
        return "you asked for these layers"
    if assigned.replace:
        return "the swarm needs these layers more than those that this node served"
    if any(wish.model_id == assigned.model_id for wish in wishes):
        return "you asked for this model, and the coordinator chose the layers that it serves least"
    return "the coordinator chose what the swarm serves least, and what fits in this node's memory"


def _asked_for_layers(assigned: Assigned, wishes: Iterable[Wish]) -> bool:
    return any(wish.layers == assigned.layers and wish.model_id in {"", assigned.model_id} for wish in wishes)
