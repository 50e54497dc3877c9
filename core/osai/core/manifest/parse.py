"""Reading a manifest file from bytes that nobody vouches for. The M numbers are clauses of docs/manifest.md."""

import json
import re
from collections.abc import Mapping
from types import NoneType
from typing import Any

from osai.core.errors import ManifestError
from osai.core.manifest.check import check
from osai.core.manifest.encode import MAX_MANIFEST_BYTES, canonical
from osai.core.manifest.entries import FORMAT, FileEntry, Manifest, Signature, SignedManifest, TensorEntry

MAX_SIGNATURES = 16
_KEY_HEX = re.compile(r"[0-9a-f]{64}")
_SIG_HEX = re.compile(r"[0-9a-f]{128}")
_Fields = Mapping[str, type | tuple[type, ...]]
_FILE: _Fields = {"path": str, "size_bytes": int, "sha256": str}
_TENSOR: _Fields = {
    "name": str,
    "file": str,
    "begin": int,
    "end": int,
    "dtype": str,
    "shape": list,
    "layer": (int, NoneType),
    "sha256": str,
}
_MANIFEST: _Fields = {
    "format": int,
    "model_id": str,
    "version": int,
    "created_s": int,
    "licence": str,
    "files": list,
    "tensors": list,
}


def parse(data: bytes) -> SignedManifest:
    """Read a manifest file and check every rule but the signatures.

    Raises:
        ManifestError: if it is oversized, no JSON, or breaks a rule; the message says which.
    """
    if len(data) > MAX_MANIFEST_BYTES:  # M1
        raise ManifestError(f"a manifest of {len(data)} bytes is over the limit of {MAX_MANIFEST_BYTES}")
    try:
        top = json.loads(data.decode(), object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse)
    except (ValueError, RecursionError) as e:  # M1; ValueError is also bad UTF-8 and a number of too many digits
        raise ManifestError(f"the manifest is damaged, or no manifest: {e}") from e
    fields = _object("manifest file", top, {"signed": dict, "signatures": list})
    manifest = _manifest(fields["signed"])
    check(manifest)
    return SignedManifest(
        manifest=manifest,
        signed_part=canonical(fields["signed"]),
        signatures=_signatures(fields["signatures"]),
    )


def _manifest(signed: dict[str, object]) -> Manifest:
    declared = signed.get("format")
    if type(declared) is int and declared != FORMAT:  # M3: before the fields, which another format may have others of
        raise ManifestError(f"manifest format {declared} is unknown (this release reads {FORMAT}): upgrade osai")
    fields = _object("manifest", signed, _MANIFEST)
    files = tuple(FileEntry(**_object("file entry", entry, _FILE)) for entry in fields["files"])
    tensors = tuple(_tensor(entry) for entry in fields["tensors"])
    return Manifest(**{**fields, "files": files, "tensors": tensors})


def _tensor(entry: object) -> TensorEntry:
    fields = _object("tensor entry", entry, _TENSOR)
    if not all(type(size) is int for size in fields["shape"]):  # M1
        raise ManifestError(f"tensor {fields['name'][:80]!r}: shape is no list of integers")
    return TensorEntry(**{**fields, "shape": tuple(fields["shape"])})


def _signatures(entries: list[object]) -> tuple[Signature, ...]:
    if len(entries) > MAX_SIGNATURES:  # M8
        raise ManifestError(f"{len(entries)} signatures are over the limit of {MAX_SIGNATURES}")
    signatures = []
    for entry in entries:
        fields = _object("signature", entry, {"public_key": str, "sig": str})
        if not _KEY_HEX.fullmatch(fields["public_key"]) or not _SIG_HEX.fullmatch(fields["sig"]):  # M8
            raise ManifestError("a signature is not 64 and 128 lower-case hex digits")
        signatures.append(Signature(public_key=bytes.fromhex(fields["public_key"]), sig=bytes.fromhex(fields["sig"])))
    if len({s.public_key for s in signatures}) != len(signatures):  # M8
        raise ManifestError("a key has signed twice")
    return tuple(signatures)


def _object(what: str, value: object, fields: _Fields) -> dict[str, Any]:
    """`value` if it is an object of exactly these fields and types (M1). A bool is no integer."""
    if not isinstance(value, dict):
        raise ManifestError(f"{what} is no JSON object")
    if value.keys() != fields.keys():
        odd = min(value.keys() ^ fields.keys())
        raise ManifestError(f"{what}: field {odd[:80]!r} is {'unknown' if odd in value else 'missing'}")
    for name, kind in fields.items():
        if type(value[name]) not in (kind if isinstance(kind, tuple) else (kind,)):
            raise ManifestError(f"{what}: field {name!r} is of the wrong type")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is given twice")
    return fields


def _refuse(text: str) -> None:
    raise ValueError(f"{text[:20]} is no integer")
