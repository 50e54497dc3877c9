"""The manifest's file in a folder, as commands read and write it."""

from pathlib import Path

from osai.client.checkpoint_folder import read_at_most
from osai.core.errors import ManifestError, SetupError, WeightsError
from osai.core.manifest import MAX_MANIFEST_BYTES, SignedManifest, parse
from osai.core.manifest.parse import stated_version


def read_manifest(path: Path) -> SignedManifest:
    """Read and parse a manifest; nothing is verified.

    Raises:
        ManifestError: if there is none, or it is malformed.
    """
    if not path.exists():
        raise ManifestError(f"there is no manifest {path}: make one with `osai manifest create`")
    return parse(_read(path))


def next_version(path: Path, model_id: str) -> int:
    """One more than the version of the manifest at `path`, or 1 if there is none of this model.

    Raises:
        ManifestError: if what lies there is no manifest.
    """
    if not path.exists():
        return 1
    present_id, version = stated_version(_read(path))  # of an older format too: that one is to be signed again
    return version + 1 if present_id == model_id else 1


def _read(path: Path) -> bytes:
    try:
        return read_at_most(path.parent, path.name, MAX_MANIFEST_BYTES)
    except WeightsError as e:  # unreadable or oversized: said of the manifest
        raise ManifestError(e.message) from e


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename: a reader never sees half a file.

    Raises:
        SetupError: if it can't be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as e:
        raise SetupError(f"can't write {path}: {e.strerror}; choose another place with --out") from e
