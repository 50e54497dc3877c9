"""Key lists and public keys as files of a publisher's machine."""

import re
from pathlib import Path

from osai.client.commands.manifest_file import read_manifest
from osai.core.errors import SetupError, TrustError
from osai.core.manifest import SignedKeyList, parse_key_list, parse_public_key
from osai.core.manifest.key_list_file import MAX_KEYS_FILE_BYTES
from osai.core.manifest.public_keys import MAX_KEY_FILE_BYTES
from osai.core.trust_files import read_bounded

_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_key_list(path: Path) -> SignedKeyList:
    """A key list's file.

    Raises:
        SetupError: if it can't be read.
        TrustError: if it is malformed.
    """
    return parse_key_list(_read(path, MAX_KEYS_FILE_BYTES))


def read_public_key(path: Path) -> bytes:
    """The raw public key of a file.

    Raises:
        SetupError: if it can't be read or holds none.
    """
    try:
        return parse_public_key(_read(path, MAX_KEY_FILE_BYTES))
    except TrustError as e:
        raise SetupError(f"{path}: {e.message}") from e


def digest_of(manifest: str) -> bytes:
    """The digest of a manifest that is named by its file or by the digest itself, 64 hex digits.

    Raises:
        ManifestError: if it is a file that holds no manifest, or neither.
    """
    return bytes.fromhex(manifest) if _DIGEST.fullmatch(manifest) else read_manifest(Path(manifest)).digest


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return read_bounded(path, max_bytes)
    except OSError as e:
        raise SetupError(f"can't read {path}: {e.strerror}") from e
