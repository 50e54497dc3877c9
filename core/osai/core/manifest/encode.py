"""Manifests as bytes: the canonical form that is signed, and the file."""

import dataclasses
import json
from collections.abc import Iterable

from osai.core.errors import ManifestError
from osai.core.manifest.check import check
from osai.core.manifest.entries import FileEntry, Manifest, Signature, TensorEntry

MAX_MANIFEST_BYTES = 64 * 2**20  # 200,000 tensors; DeepSeek V3 has 92,000


def canonical(value: object) -> bytes:
    """The one way to write a JSON value (M2): sorted keys, no spaces, UTF-8.

    Only dicts with string keys, lists, strings, integers, booleans and None are ever given to it, so nothing has two
    forms.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def signed_part(manifest: Manifest) -> bytes:
    """The bytes that signatures cover.

    Raises:
        ManifestError: if the manifest breaks a rule of docs/manifest.md.
    """
    check(manifest)
    entries = {"files": [_fields(file) for file in manifest.files], "tensors": [_fields(t) for t in manifest.tensors]}
    return canonical(_fields(manifest) | entries)


def _fields(entry: Manifest | FileEntry | TensorEntry) -> dict[str, object]:
    """As dataclasses.asdict, which takes seconds for 100,000 entries because it copies every value."""
    return {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}


def file_of(signed: bytes, signatures: Iterable[Signature]) -> bytes:
    """The file of a signed part: one line of canonical JSON.

    Raises:
        ManifestError: if it is larger than any manifest may be.
    """
    listed = [{"public_key": s.public_key.hex(), "sig": s.sig.hex()} for s in signatures]
    data = b'{"signatures":' + canonical(listed) + b',"signed":' + signed + b"}\n"
    if len(data) > MAX_MANIFEST_BYTES:  # M1
        raise ManifestError(f"a manifest of {len(data)} bytes is over the limit of {MAX_MANIFEST_BYTES}")
    return data


def unsigned(manifest: Manifest) -> bytes:
    """The file of a manifest that nobody has signed.

    Raises:
        ManifestError: if the manifest breaks a rule of docs/manifest.md.
    """
    return file_of(signed_part(manifest), ())
