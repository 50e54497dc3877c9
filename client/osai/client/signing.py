"""Making and checking manifests of checkpoint folders, and publisher keys. Without torch and safetensors."""

import os
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from osai.client.checkpoint_folder import (
    OnBytes,
    Region,
    card_licence,
    hash_regions,
    list_files,
    read_tensors,
    size_of,
)
from osai.core.errors import SetupError, WeightsError
from osai.core.identity import Identity
from osai.core.manifest import FileEntry, Manifest, SignedManifest, TensorEntry, check, public_key_pem
from osai.core.manifest.select import refuse_pickles, select_files


def build_manifest(
    folder: Path,
    model_id: str,
    version: int,
    licence: str | None,
    on_bytes: OnBytes | None = None,
    *,
    created_s: int | None = None,
) -> Manifest:
    """The manifest of a checkpoint's folder, every digest computed.

    Args:
        folder: HF layout; only its own files and its additional chat templates are looked at.
        model_id: as the swarm will name the model.
        version: rises with every manifest of this model.
        licence: None takes the model card's (README.md), or "unknown".
        on_bytes: told of bytes as they are hashed, from several threads; `checkpoint_bytes` says how many in all.
        created_s: seconds since 1970; None for now.

    Raises:
        WeightsError: if files are missing, pickled or damaged.
        ManifestError: if the model id, the licence or a name breaks a rule of docs/manifest.md.
    """
    paths = list_files(folder)
    refuse_pickles(paths)
    files = tuple(FileEntry(path=p, size_bytes=size_of(folder, p), sha256="") for p in select_files(paths))
    manifest = Manifest(
        model_id=model_id,
        version=version,
        created_s=int(time.time()) if created_s is None else created_s,
        licence=licence or card_licence(folder, paths) or "unknown",
        files=files,
        tensors=read_tensors(folder, paths),
    )
    check(manifest)  # before the long part
    digests = list(hash_regions(folder, _regions(manifest), on_bytes))
    return replace(
        manifest,
        files=tuple(replace(e, sha256=d) for e, d in zip(files, digests[: len(files)], strict=True)),
        tensors=tuple(replace(e, sha256=d) for e, d in zip(manifest.tensors, digests[len(files) :], strict=True)),
    )


def checkpoint_bytes(folder: Path) -> int:
    """Bytes that `build_manifest` will hash.

    Raises:
        WeightsError: as `build_manifest`.
    """
    paths = list_files(folder)
    refuse_pickles(paths)
    tensors = read_tensors(folder, paths)
    return sum(size_of(folder, path) for path in select_files(paths)) + sum(t.size_bytes for t in tensors)


def verify_folder(folder: Path, signed: SignedManifest, on_bytes: OnBytes | None = None) -> None:
    """Check that a folder holds what the manifest says, byte for byte (M12). Its signatures are `verify`'s matter.

    Also refused: a tensor, config, tokenizer file or chat template that the manifest does not list, and pickles.

    Args:
        folder: the checkpoint.
        signed: what it should hold.
        on_bytes: told of bytes as they are hashed, from several threads; `Manifest.num_bytes()` says how many in all.

    Raises:
        WeightsError: naming the file or tensor that is missing, added or differs.
    """
    manifest = signed.manifest
    paths = list_files(folder)
    _compare_files(folder, paths, manifest)
    _compare_tensors(manifest.tensors, read_tensors(folder, paths))
    entries: tuple[FileEntry | TensorEntry, ...] = (*manifest.files, *manifest.tensors)
    with closing(hash_regions(folder, _regions(manifest), on_bytes)) as digests:
        for entry, digest in zip(entries, digests, strict=True):
            if entry.sha256 != digest:
                raise _differs(entry)


def _compare_files(folder: Path, paths: frozenset[str], manifest: Manifest) -> None:
    refuse_pickles(paths)
    for path in [file.path for file in manifest.files] + sorted({tensor.file for tensor in manifest.tensors}):
        if path not in paths:
            raise WeightsError(f"{path} is missing from {folder}; fetch it again", subject=path)
    for file in manifest.files:
        if size_of(folder, file.path) != file.size_bytes:
            raise _differs(file)
    for path in sorted(set(select_files(paths)) - {file.path for file in manifest.files}):
        raise WeightsError(f"{path} is not in the manifest; remove it, or make a new manifest", subject=path)


def _compare_tensors(listed: Iterable[TensorEntry], found: Iterable[TensorEntry]) -> None:
    """The folder's headers must say the same as the manifest; a reader that goes by them gets no other tensors."""
    by_name = {entry.name: entry for entry in found}
    for entry in listed:
        other = by_name.pop(entry.name, None)
        if other is None:
            raise WeightsError(f"tensor {entry.name} is missing from {entry.file}; fetch it again", subject=entry.name)
        if replace(other, sha256=entry.sha256, layer=entry.layer) != entry:
            raise _differs(entry)
    for other in by_name.values():
        raise WeightsError(
            f"tensor {other.name} of {other.file} is not in the manifest; remove it, or make a new manifest",
            subject=other.name,
        )


def _regions(manifest: Manifest) -> list[Region]:
    files = [Region(file.path, 0, file.size_bytes, f"file {file.path}") for file in manifest.files]
    return files + [Region(t.file, t.begin, t.end, f"tensor {t.name}") for t in manifest.tensors]


def _differs(entry: FileEntry | TensorEntry) -> WeightsError:
    if isinstance(entry, FileEntry):
        return WeightsError(f"file {entry.path} differs from the manifest; fetch it again", subject=entry.path)
    return WeightsError(
        f"tensor {entry.name} of {entry.file} differs from the manifest; fetch the file again", subject=entry.name
    )


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
