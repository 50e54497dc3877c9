"""What a node says of itself on its control stream, and what of it is proven. Pure but for the log.

The O numbers are clauses of docs/security.md.
"""

import logging
from dataclasses import replace

from google.protobuf.message import DecodeError

from osai.coordinator.swarm import NodeState
from osai.coordinator.wire import read_node
from osai.core.errors import TrustError
from osai.core.records import NODES_KEY, unseal
from osai.proto import record_pb2

log = logging.getLogger(__name__)


def read_told(
    record: record_pb2.NodeRecord, sealed: bytes, *, node_id: str, is_member: bool, now_s: float
) -> NodeState:
    """Read a node's record. In a public swarm anybody may greet as anybody: what the node has signed goes first (O4).

    Args:
        record: as it came.
        sealed: the same, signed by the node; empty where it did not.
        node_id: as whom it has greeted.
        is_member: its certificate has proven that, in a private swarm.
        now_s: seconds since 1970.

    Raises:
        PeerError: as `read_node`.
        InvalidRequestError: as `read_node`.
    """
    if is_member:
        return read_node(record, proven_at_s=now_s)
    if not sealed:
        return read_node(record)
    try:
        signed = record_pb2.NodeRecord.FromString(unseal(sealed, NODES_KEY, node_id, now_s))
    except (TrustError, DecodeError) as e:
        flaw = f"node {node_id} names an operator, and what it has signed can't be believed: {e}"
        return replace(read_node(record), operator_flaw=flaw)
    return read_node(signed, proven_at_s=now_s)


def note_operator(told: NodeState, before: NodeState | None, after: NodeState | None) -> None:
    """Say once why the operator that a node names does not count.

    Args:
        told: by the node.
        before: what was known of it.
        after: what is known now; what it told may have come too late.
    """
    if told.operator_flaw and told is after and (before is None or before.operator_flaw != told.operator_flaw):
        log.warning("%s; it counts as nobody's", told.operator_flaw)
