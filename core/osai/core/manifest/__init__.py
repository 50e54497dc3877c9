"""The manifest: a publisher's signed statement of a model. Pure; docs/manifest.md is the specification."""

from osai.core.manifest.check import MAX_FILE_BYTES, check
from osai.core.manifest.encode import MAX_MANIFEST_BYTES, unsigned
from osai.core.manifest.entries import (
    FORMAT,
    MANIFEST_FILE,
    FileEntry,
    Manifest,
    Signature,
    SignedManifest,
    TensorEntry,
)
from osai.core.manifest.names import is_text, layer_of
from osai.core.manifest.parse import parse
from osai.core.manifest.trust import TrustPolicy, parse_public_key, public_key_pem, sign, verify

__all__ = [
    "FORMAT",
    "MANIFEST_FILE",
    "MAX_FILE_BYTES",
    "MAX_MANIFEST_BYTES",
    "FileEntry",
    "Manifest",
    "Signature",
    "SignedManifest",
    "TensorEntry",
    "TrustPolicy",
    "check",
    "is_text",
    "layer_of",
    "parse",
    "parse_public_key",
    "public_key_pem",
    "sign",
    "unsigned",
    "verify",
]
