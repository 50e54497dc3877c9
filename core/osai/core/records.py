"""Signed membership records, as they lie in the DHT.

The signature covers a context line, key, subkey, expiry and payload, each with its length, so that a record can't be
replayed under another key or with a later expiry. The subkey is the digest of the signer's key: a member can only
speak for itself.
"""

import struct

from google.protobuf.message import DecodeError

from osai.core.errors import TrustError
from osai.core.identity import Identity, node_id_of, verify
from osai.proto import record_pb2

NODES_KEY = "osai.v1.nodes"
COORDINATORS_KEY = "osai.v1.coordinators"
MAX_RECORD_BYTES = 64 * 1024  # a node of some hundred spans takes less; bounds what a peer can make us parse
_CONTEXT = b"osai.v1.record\0"


def _message(key: str, subkey: str, expiry_s: float, payload: bytes) -> bytes:
    parts = (key.encode(), subkey.encode(), struct.pack("<d", expiry_s), payload)
    return _CONTEXT + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def seal(identity: Identity, key: str, payload: bytes, expiry_s: float) -> bytes:
    """Sign `payload` for the DHT; `expiry_s` is in seconds since 1970."""
    signature = identity.sign(_message(key, identity.node_id, expiry_s, payload))
    record = record_pb2.SignedRecord(
        payload=payload, public_key=identity.public_key, expiry_s=expiry_s, signature=signature
    )
    return record.SerializeToString()


def unseal(data: bytes, key: str, subkey: str, now_s: float) -> bytes:
    """The payload of a sealed record, if it is to be believed.

    Raises:
        TrustError: if it is oversized, malformed, expired, signed by another member, or its signature is wrong.
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
    return record.payload
