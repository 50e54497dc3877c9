"""Nodes that may have the chunks of a manifest, out of their records. Pure."""

from collections.abc import Callable, Collection, Mapping
from random import Random

from google.protobuf.message import DecodeError

from osai.proto import record_pb2

MAX_SEEDERS = 24  # that one load asks: enough for any line, and few enough to ask each of them twice a second
MAX_EVER = 96  # that it asks one after the other: each new one may cost time, and new ids cost nothing
STATES = frozenset({"loading", "ready"})


def read_seeders(
    payloads: Mapping[str, bytes], manifest_digest: bytes, my_id: str, is_revoked: Callable[[str], bool]
) -> dict[str, str]:
    """Addresses, by node id, of the other nodes that serve or load a manifest.

    Args:
        payloads: of the nodes' records, by id.
        manifest_digest: of the manifest.
        my_id: this node's.
        is_revoked: whether a node is out.
    """
    found = {}
    for node_id, payload in payloads.items():
        address = _address(node_id, payload, manifest_digest)
        if address and node_id != my_id and not is_revoked(node_id):
            found[node_id] = address
    return found


def choose(
    seeders: Mapping[str, str], known: Mapping[str, str], ever: Collection[str], random: Random
) -> dict[str, str]:
    """Those of them to be asked: whoever is asked already, and any others.

    Args:
        seeders: that are there now.
        known: those that are asked.
        ever: those that were asked at any time of this load.
        random: chooses among new ones.
    """
    kept = {node_id: address for node_id, address in seeders.items() if known.get(node_id) == address}
    others = sorted(seeders.keys() - kept.keys())
    random.shuffle(others)
    room = MAX_EVER - len(ever)
    old, new = [one for one in others if one in ever], [one for one in others if one not in ever]
    chosen = [*old, *new[: max(room, 0)]][: max(MAX_SEEDERS - len(kept), 0)]
    return kept | {node_id: seeders[node_id] for node_id in chosen}


def _address(node_id: str, payload: bytes, manifest_digest: bytes) -> str:
    try:
        record = record_pb2.NodeRecord.FromString(payload)
    except DecodeError:
        return ""
    has = any(span.manifest_digest == manifest_digest and span.state in STATES for span in record.spans)
    return record.edge_address if has and record.node_id == node_id and record.state != "draining" else ""
