"""Publishers' key files: made once, read when something is signed."""

import os
from pathlib import Path

from osai.core.errors import SetupError
from osai.core.identity import Identity
from osai.core.manifest import public_key_pem


def create_key(path: Path) -> tuple[Identity, Path]:
    """Write a new publisher key to `path` (mode 0600) and its public key beside it.

    Returns:
        The key, and the path of the public one: `.pub` in place of `.pem`, or added to another name.

    Raises:
        SetupError: if either file exists, or can't be written.
    """
    identity = Identity.generate()
    public = path.with_name(path.name.removesuffix(".pem") + ".pub")
    _write_new(path, identity.to_pem(), 0o600)
    try:
        _write_new(public, public_key_pem(identity.public_key), 0o644)
    except SetupError:
        path.unlink()
        raise
    return identity, public


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123 (descriptor)
            file.write(data)
    except OSError as e:
        if isinstance(e, FileExistsError) and path.parent.is_dir():
            raise SetupError(f"{path} exists and is not overwritten; choose another name with --out") from e
        raise SetupError(f"can't write the key {path}: {e.strerror}; choose another place with --out") from e


def load_key(path: Path) -> Identity:
    """Read a private key file.

    Raises:
        SetupError: if it can't be read.
        TrustError: if it is no Ed25519 private key.
    """
    try:
        return Identity.from_pem(path.read_bytes())
    except OSError as e:
        raise SetupError(f"can't read the key {path}: {e.strerror}; make one with `osai key create`") from e
