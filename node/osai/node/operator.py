"""The node's word about its operator: the operator's about it, and its own that the record is its."""

import time
from pathlib import Path

from osai.core.errors import SetupError, TrustError
from osai.core.identity import Identity
from osai.core.operators import LIFE_S, OperatorStatement, state_operator
from osai.core.records import NODES_KEY, seal
from osai.node.record import NodeFacts
from osai.proto import record_pb2


def read_operator(key_file: Path | None, node_id: str) -> OperatorStatement | None:
    """What the operator's private key says of this node from now on, for O2's 90 days; None where there is no key.

    Raises:
        SetupError: if the file can't be read, or holds no Ed25519 private key.
    """
    if key_file is None:
        return None
    try:
        return state_operator(Identity.from_pem(key_file.read_bytes()), node_id, int(time.time()) + LIFE_S)
    except OSError as e:
        raise SetupError(f"--operator {key_file}: it can't be read: {e.strerror}") from e
    except TrustError as e:
        raise SetupError(f"--operator {key_file}: {e.message}; make one with `osai key create`") from e


def seal_record(record: record_pb2.NodeRecord, facts: NodeFacts, identity: Identity, expiry_s: float) -> bytes:
    """The record as the node signs it for a control stream (O3); empty where nothing in it needs that.

    Args:
        record: as it goes there.
        facts: of this node; in a private swarm its certificate proves more.
        identity: of this node.
        expiry_s: seconds since 1970.
    """
    if facts.operator is None or facts.is_private:
        return b""
    return seal(identity, NODES_KEY, record.SerializeToString(), expiry_s)
