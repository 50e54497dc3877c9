"""Signed membership records, as they lie in the DHT.

The signature covers a context line, key, subkey, expiry and payload, each with its length, so that a record can't be
replayed under another key or with a later expiry. The subkey is the digest of the signer's key: a member can only
speak for itself. In a private swarm the record carries the member's certificate too, which must be of that very id and
of the role that the key is for: who is not a member can't put anything into the swarm's view.
"""

import struct
from collections.abc import Callable
from types import MappingProxyType

from google.protobuf.message import DecodeError

from osai.core.admission.peer import Peer
from osai.core.admission.roles import Role
from osai.core.errors import TrustError
from osai.core.identity import Identity, node_id_of, verify
from osai.proto import record_pb2

NODES_KEY = "osai.v1.nodes"
COORDINATORS_KEY = "osai.v1.coordinators"
MAX_RECORD_BYTES = 64 * 1024  # a node of some hundred spans takes less; bounds what a peer can make us parse
_CONTEXT = b"osai.v1.record\0"
_ROLES = MappingProxyType({NODES_KEY: Role.NODE, COORDINATORS_KEY: Role.COORDINATOR})

Admit = Callable[[bytes], Peer]
"""The member that a certificate is of; it raises TrustError for any other certificate."""


def _message(key: str, subkey: str, expiry_s: float, payload: bytes) -> bytes:
    parts = (key.encode(), subkey.encode(), struct.pack("<d", expiry_s), payload)
    return _CONTEXT + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def seal(identity: Identity, key: str, payload: bytes, expiry_s: float, certificate: bytes = b"") -> bytes:
    """Sign `payload` for the DHT until `expiry_s`, since 1970; `certificate` is the member's in a private swarm."""
    signature = identity.sign(_message(key, identity.node_id, expiry_s, payload))
    record = record_pb2.SignedRecord(
        payload=payload,
        public_key=identity.public_key,
        expiry_s=expiry_s,
        signature=signature,
        certificate=certificate,
    )
    return record.SerializeToString()


def unseal(data: bytes, key: str, subkey: str, now_s: float, admit: Admit | None = None) -> bytes:
    """The payload of a sealed record, if it is to be believed.

    Args:
        data: the record.
        key: under which it lies.
        subkey: under that key; its signer's id.
        now_s: seconds since 1970.
        admit: judges certificates, in a private swarm; None in a public one.

    Raises:
        TrustError: if it is oversized, malformed, expired, signed by another member, or its signature is wrong; in a
            private swarm also if its signer is no member of the key's role.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise TrustError(f"record of {len(data)} bytes is over the limit of {MAX_RECORD_BYTES}", subject=subkey)
    record = record_pb2.SignedRecord()
    try:
        record.ParseFromString(data)
    except DecodeError as e:
        raise TrustError(f"record can't be parsed: {e}", subject=subkey) from e
    if node_id_of(record.public_key) != subkey:
        raise TrustError("record lies under an id that is not its signer's", subject=subkey)
    if record.expiry_s <= now_s:
        raise TrustError("record has expired", subject=subkey)
    if not verify(record.public_key, record.signature, _message(key, subkey, record.expiry_s, record.payload)):
        raise TrustError("record's signature is wrong", subject=subkey)
    if admit is not None:
        peer = admit(record.certificate)
        if peer.member_id != subkey or peer.role is not _ROLES.get(key):
            raise TrustError("record is not of the member that its certificate names", subject=subkey)
    return record.payload
