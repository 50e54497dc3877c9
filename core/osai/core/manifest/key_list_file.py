"""Key lists as files: read from bytes that nobody vouches for, signed and written."""

import dataclasses
from collections.abc import Iterable
from types import NoneType

from osai.core.errors import TrustError
from osai.core.identity import Identity
from osai.core.manifest.encode import canonical, file_of
from osai.core.manifest.entries import Signature
from osai.core.manifest.key_list import KEYS_FORMAT, KeyList, SignedKeyList, check_key_list
from osai.core.manifest.parse import MAX_SIGNATURES, parse_signatures
from osai.core.manifest.signatures import signature_of
from osai.core.strict_json import Fields, bytes_of, fields_of, list_of, read_json

MAX_KEYS_FILE_BYTES = 2 * 2**20  # every list of a key list at its limit
KEYS_CONTEXT = b"osai.v1.keys\0"  # K2: no signature made for anything else is one of a key list
_NUM_BYTES = 32  # of a key, and of a digest
_FIELDS: Fields = {
    "format": int,
    "publisher": str,
    "version": int,
    "keys": list,
    "threshold": int,
    "not_after_s": (int, NoneType),
    "models": list,
    "revoked_keys": list,
    "revoked_manifests": list,
}


def parse_key_list(data: bytes) -> SignedKeyList:
    """Read a key list and check every rule but the signatures.

    Raises:
        TrustError: if it is oversized, no JSON, or breaks a rule; the message says which.
    """
    top = read_json("key list", data, MAX_KEYS_FILE_BYTES)  # K1
    fields = fields_of("key list file", top, {"signed": dict, "signatures": list})
    listed = _key_list(fields["signed"])
    check_key_list(listed)
    signatures = parse_signatures(fields["signatures"])
    return SignedKeyList(listed=listed, signed_part=canonical(fields["signed"]), signatures=signatures)


def _key_list(signed: dict[str, object]) -> KeyList:
    declared = signed.get("format")
    if type(declared) is int and declared != KEYS_FORMAT:  # K1: before the fields, which may be others
        raise TrustError(f"key list format {declared} is unknown (this release reads {KEYS_FORMAT}): upgrade osai")
    fields = fields_of("key list", signed, _FIELDS)
    raw = {
        name: tuple(bytes_of(f"one of {name}", text, _NUM_BYTES) for text in list_of(str, name, fields[name]))
        for name in ("keys", "revoked_keys", "revoked_manifests")
    }
    return KeyList(**{**fields, **raw, "models": list_of(str, "models", fields["models"])})


def sign_key_list(listed: KeyList, identities: Iterable[Identity]) -> bytes:
    """The key list's file, with these signatures.

    Raises:
        TrustError: if it breaks a rule, or there are too many signatures.
    """
    check_key_list(listed)
    values = {field.name: getattr(listed, field.name) for field in dataclasses.fields(listed)}
    raw = {name: [data.hex() for data in values[name]] for name in ("keys", "revoked_keys", "revoked_manifests")}
    signed = canonical(values | raw)
    return _file(signed, [signature_of(KEYS_CONTEXT, signed, identity) for identity in identities])


def add_key_list_signature(signed: SignedKeyList, identity: Identity) -> bytes:
    """The key list's file with one more signature, over the same bytes; one by the same key is replaced.

    Raises:
        TrustError: if there are too many signatures.
    """
    added = signature_of(KEYS_CONTEXT, signed.signed_part, identity)
    return _file(signed.signed_part, [*signed.signatures, added])


def _file(signed: bytes, signatures: Iterable[Signature]) -> bytes:
    by_key = {signature.public_key: signature for signature in signatures}  # K2: no key twice
    if len(by_key) > MAX_SIGNATURES:  # K2
        raise TrustError(f"{len(by_key)} signatures are over the limit of {MAX_SIGNATURES}")
    return file_of(signed, by_key.values())
