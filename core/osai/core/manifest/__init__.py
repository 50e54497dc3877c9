"""The manifest: a publisher's signed statement of a model. Pure; docs/manifest.md is the specification."""

from osai.core.manifest.check import MAX_FILE_BYTES, check
from osai.core.manifest.chunks import DEFAULT_CHUNK_BYTES, Chunk, choose_chunk_bytes, chunk_digests, num_chunks
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
from osai.core.manifest.key_list import KEYS_FILE, KeyList, SignedKeyList
from osai.core.manifest.key_list_file import parse_key_list, sign_key_list
from osai.core.manifest.licence import refuse_unaccepted
from osai.core.manifest.memory import TrustMemory
from osai.core.manifest.names import is_text, layer_of
from osai.core.manifest.parse import parse
from osai.core.manifest.policy import TrustPolicy
from osai.core.manifest.public_keys import parse_public_key, public_key_pem
from osai.core.manifest.signatures import add_signature, sign
from osai.core.manifest.verify import verify

__all__ = [
    "DEFAULT_CHUNK_BYTES",
    "FORMAT",
    "KEYS_FILE",
    "MANIFEST_FILE",
    "MAX_FILE_BYTES",
    "MAX_MANIFEST_BYTES",
    "Chunk",
    "FileEntry",
    "KeyList",
    "Manifest",
    "Signature",
    "SignedKeyList",
    "SignedManifest",
    "TensorEntry",
    "TrustMemory",
    "TrustPolicy",
    "add_signature",
    "check",
    "choose_chunk_bytes",
    "chunk_digests",
    "is_text",
    "layer_of",
    "num_chunks",
    "parse",
    "parse_key_list",
    "parse_public_key",
    "public_key_pem",
    "refuse_unaccepted",
    "sign",
    "sign_key_list",
    "unsigned",
    "verify",
]
