"""Reading a manifest file from bytes that nobody vouches for. The M numbers are clauses of docs/manifest.md."""

from types import NoneType

from osai.core.errors import ManifestError, TrustError
from osai.core.manifest.check import check, check_format
from osai.core.manifest.encode import MAX_MANIFEST_BYTES, canonical
from osai.core.manifest.entries import FORMAT, FileEntry, Manifest, Signature, SignedManifest, TensorEntry
from osai.core.strict_json import Fields, bytes_of, fields_of, list_of, read_json

MAX_SIGNATURES = 16
_TOP: Fields = {"signed": dict, "signatures": list}
_FILE: Fields = {"path": str, "size_bytes": int, "chunks": list}
_TENSOR: Fields = {
    "name": str,
    "file": str,
    "begin": int,
    "end": int,
    "dtype": str,
    "shape": list,
    "layer": (int, NoneType),
    "chunks": list,
}
_MANIFEST: Fields = {
    "format": int,
    "model_id": str,
    "version": int,
    "created_s": int,
    "not_after_s": (int, NoneType),
    "licence": str,
    "licence_url": str,
    "licence_must_accept": bool,
    "chunk_bytes": int,
    "files": list,
    "tensors": list,
}


def parse(data: bytes) -> SignedManifest:
    """Read a manifest file and check every rule but the signatures.

    Raises:
        ManifestError: if it is oversized, no JSON, or breaks a rule; the message says which.
    """
    try:
        top = read_json("manifest", data, MAX_MANIFEST_BYTES)  # M1
        fields = fields_of("manifest file", top, _TOP)
        manifest = _manifest(fields["signed"])
        check(manifest)
        signatures = parse_signatures(fields["signatures"])
    except ManifestError:
        raise
    except TrustError as e:
        raise ManifestError(e.message) from e
    return SignedManifest(manifest=manifest, signed_part=canonical(fields["signed"]), signatures=signatures)


def stated_version(data: bytes) -> tuple[str, int]:
    """Model id and version of a manifest of this format or an earlier one, of which nothing else is checked.

    Raises:
        ManifestError: if it is no manifest.
    """
    try:
        top = fields_of("manifest file", read_json("manifest", data, MAX_MANIFEST_BYTES), _TOP)
        signed = top["signed"]
        model_id, version, declared = signed.get("model_id"), signed.get("version"), signed.get("format")
    except TrustError as e:
        raise ManifestError(e.message) from e
    if type(model_id) is str and type(version) is int and type(declared) is int and declared < FORMAT:
        return model_id, version
    manifest = parse(data).manifest
    return manifest.model_id, manifest.version


def _manifest(signed: dict[str, object]) -> Manifest:
    declared = signed.get("format")
    if type(declared) is int:  # M3: before the fields, which another format may have others of
        check_format(declared)
    fields = fields_of("manifest", signed, _MANIFEST)
    files = tuple(_file(entry) for entry in fields["files"])
    tensors = tuple(_tensor(entry) for entry in fields["tensors"])
    return Manifest(**{**fields, "files": files, "tensors": tensors})


def _file(entry: object) -> FileEntry:
    fields = fields_of("file entry", entry, _FILE)
    return FileEntry(**{**fields, "chunks": list_of(str, f"file {fields['path'][:80]!r}: chunks", fields["chunks"])})


def _tensor(entry: object) -> TensorEntry:
    fields = fields_of("tensor entry", entry, _TENSOR)
    where = f"tensor {fields['name'][:80]!r}"
    shape = list_of(int, f"{where}: shape", fields["shape"])
    return TensorEntry(**{**fields, "shape": shape, "chunks": list_of(str, f"{where}: chunks", fields["chunks"])})


def parse_signatures(entries: list[object]) -> tuple[Signature, ...]:
    """The signatures of a manifest or key list (M9).

    Raises:
        TrustError: if there are too many, one is malformed, or a key has signed twice.
    """
    if len(entries) > MAX_SIGNATURES:
        raise TrustError(f"{len(entries)} signatures are over the limit of {MAX_SIGNATURES}")
    signatures = []
    for entry in entries:
        fields = fields_of("signature", entry, {"public_key": str, "sig": str})
        key = bytes_of("a signature's public key", fields["public_key"], 32)
        signatures.append(Signature(public_key=key, sig=bytes_of("a signature", fields["sig"], 64)))
    if len({s.public_key for s in signatures}) != len(signatures):
        raise TrustError("a key has signed twice")
    return tuple(signatures)
