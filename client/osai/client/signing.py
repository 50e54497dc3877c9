"""Making and checking manifests of checkpoint folders. Without torch and safetensors."""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
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
from osai.core.errors import WeightsError
from osai.core.manifest import FileEntry, Manifest, SignedManifest, TensorEntry, check, choose_chunk_bytes
from osai.core.manifest.chunks import num_chunks, ranges
from osai.core.manifest.select import refuse_pickles, select_files

Entry = FileEntry | TensorEntry


def build_manifest(
    folder: Path,
    model_id: str,
    version: int,
    licence: str | None,
    on_bytes: OnBytes | None = None,
    *,
    created_s: int | None = None,
    not_after_s: int | None = None,
    licence_url: str | None = None,
    licence_must_accept: bool = False,
    chunk_bytes: int | None = None,
) -> Manifest:
    """The manifest of a checkpoint's folder, every digest computed.

    Args:
        folder: HF layout; only its own files and its additional chat templates are looked at.
        model_id: as the swarm will name the model.
        version: rises with every manifest of this model.
        licence: None takes the model card's (README.md), or "unknown".
        on_bytes: told of bytes as they are hashed, from several threads; `checkpoint_bytes` says how many in all.
        created_s: seconds since 1970; None for now.
        not_after_s: seconds since 1970 after which it is believed no more; None: it does not expire.
        licence_url: None takes the model card's where the licence is the card's too.
        licence_must_accept: whether nodes' operators must have accepted the licence.
        chunk_bytes: what tensors and files are cut into; None for what fits the checkpoint's size.

    Raises:
        WeightsError: if files are missing, pickled or damaged.
        ManifestError: if the model id, the licence or a name breaks a rule of docs/manifest.md.
    """
    paths = list_files(folder)
    refuse_pickles(paths)
    files = tuple(FileEntry(path=p, size_bytes=size_of(folder, p), chunks=()) for p in select_files(paths))
    tensors = read_tensors(folder, paths)
    card = card_licence(folder, paths)
    card_url = card.url if licence in {None, card.name} else ""
    manifest = Manifest(
        model_id=model_id,
        version=version,
        created_s=int(time.time()) if created_s is None else created_s,
        not_after_s=not_after_s,
        licence=licence or card.name or "unknown",
        licence_url=card_url if licence_url is None else licence_url,
        licence_must_accept=licence_must_accept,
        files=files,
        tensors=tensors,
    )
    if chunk_bytes is None:
        chunk_bytes = choose_chunk_bytes(entry.size_bytes for entry in manifest.entries)
    manifest = replace(manifest, chunk_bytes=chunk_bytes)
    check(manifest)  # before the long part
    with closing(hash_regions(folder, (region for _, region in _regions(manifest)), on_bytes)) as digests:
        return _with_digests(manifest, digests)


def _with_digests(manifest: Manifest, digests: Iterator[str]) -> Manifest:
    """The manifest with each entry's chunks, from the digests of all in order."""

    def chunks_of(entry: Entry) -> tuple[str, ...]:
        return tuple(islice(digests, num_chunks(entry.size_bytes, manifest.chunk_bytes)))

    return replace(
        manifest,
        files=tuple(replace(entry, chunks=chunks_of(entry)) for entry in manifest.files),
        tensors=tuple(replace(entry, chunks=chunks_of(entry)) for entry in manifest.tensors),
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
    """Check that a folder holds what the manifest says, byte for byte (M15). Its signatures are `verify`'s matter.

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
    for entry in manifest.entries:
        if entry.size_bytes and not entry.chunks:  # M8
            raise WeightsError(f"{_subject(entry)} has no digests in the manifest; make it with `osai manifest create`")
    listed = (digest for entry in manifest.entries for digest in entry.chunks)
    regions = _regions(manifest)
    with closing(hash_regions(folder, (region for _, region in regions), on_bytes)) as digests:
        for (entry, region), due, digest in zip(regions, listed, digests, strict=True):
            if due != digest:
                raise _differs(entry, f" in bytes [{region.begin}, {region.end})")


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
        if replace(other, chunks=entry.chunks, layer=entry.layer) != entry:
            raise _differs(entry)
    for other in by_name.values():
        raise WeightsError(
            f"tensor {other.name} of {other.file} is not in the manifest; remove it, or make a new manifest",
            subject=other.name,
        )


def _regions(manifest: Manifest) -> list[tuple[Entry, Region]]:
    """Each chunk to be hashed, and the entry that it is of."""
    found: list[tuple[Entry, Region]] = []
    for entry in manifest.entries:
        file, begin = (entry.path, 0) if isinstance(entry, FileEntry) else (entry.file, entry.begin)
        cut = ranges(begin, begin + entry.size_bytes, manifest.chunk_bytes)
        found += [(entry, Region(file, first, last, _subject(entry))) for first, last in cut]
    return found


def _subject(entry: Entry) -> str:
    return f"file {entry.path}" if isinstance(entry, FileEntry) else f"tensor {entry.name} of {entry.file}"


def _differs(entry: Entry, where: str = "") -> WeightsError:
    name = entry.path if isinstance(entry, FileEntry) else entry.name
    return WeightsError(f"{_subject(entry)} differs from the manifest{where}; fetch the file again", subject=name)
