"""An osai manifest of the very bytes that an OMS signature vouches for.

Three reads of a folder must speak of the same bytes: the library's (whole files, checked against the signature), the
manifest's (tensors), and whatever is served later. Someone who can write to the folder could change it in between. So
nothing is signed by what the manifest's read found. A last read takes the digests of each whole file and of each of its
tensors from the same bytes in memory, at once:

- the whole file's must be the one that the OMS signature lists, so these are the publisher's bytes;
- the tensors' and the header's must be what the manifest says, so the manifest speaks of these bytes.

What lies on the disk before or after does not matter: the manifest is true of the publisher's bytes, or is not signed.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from osai.client.checkpoint_folder import MAX_CARD_BYTES, CardLicence, card_licence, read_at_most
from osai.client.oms.one_read import FileRead, read_once
from osai.core.errors import WeightsError
from osai.core.manifest import Chunk, Manifest, num_chunks
from osai.core.manifest.select import INDEX_FILE, MAX_INDEX_BYTES, select_files, select_shards, tensor_entries
from osai.core.safetensors_header import parse_header

NUM_THREADS = 2  # each byte is hashed twice, at 0.6 GiB/s a thread
CARD_FILE = "README.md"

Digests = Mapping[str, str]
"""SHA-256 in hex of each file that the OMS signature lists, by path."""


def listed_licence(folder: Path, digests: Digests) -> CardLicence:
    """What the model card says of the licence, if the OMS signature lists the card.

    Raises:
        WeightsError: if the card is not the listed one.
    """
    if CARD_FILE not in digests:
        return CardLicence()
    card = _read_listed(folder, CARD_FILE, digests, MAX_CARD_BYTES)
    with TemporaryDirectory(prefix="osai-oms-") as private:  # the very bytes that were checked
        (Path(private) / CARD_FILE).write_bytes(card)
        return card_licence(Path(private), frozenset({CARD_FILE}))


def prove_same_bytes(
    folder: Path, digests: Digests, manifest: Manifest, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Check that a manifest speaks of the files that an OMS signature lists, and of all that serving reads of them.

    Args:
        folder: where they lie.
        digests: what the signature lists.
        manifest: what is to be signed.
        on_bytes: told of bytes as they are read, from several threads: `Manifest.num_bytes()` and the headers.

    Raises:
        WeightsError: naming the file that the signature does not list, or that is not the same to both.
    """
    _refuse_unlisted(digests, manifest)
    index = _read_listed(folder, INDEX_FILE, digests, MAX_INDEX_BYTES) if INDEX_FILE in digests else None
    shards = select_shards(frozenset(digests), index)
    if select_files(frozenset(digests)) != tuple(sorted(file.path for file in manifest.files)):
        raise _changed("the list of config and tokenizer files")
    reads = _read_all(folder, _jobs(shards, manifest), digests, on_bytes)
    headers = {shard: parse_header(reads[shard].header, file_bytes=reads[shard].size_bytes) for shard in shards}
    if tensor_entries(shards, headers) != tuple(replace(tensor, chunks=()) for tensor in manifest.tensors):
        raise _changed("the list of tensors")


def _refuse_unlisted(digests: Digests, manifest: Manifest) -> None:
    """A signature may ignore paths, and then vouches for nothing there."""
    served = {file.path for file in manifest.files} | {tensor.file for tensor in manifest.tensors}
    for path in sorted(served - digests.keys()):
        raise WeightsError(
            f"{path} would be served, but the OMS signature leaves it out: ask the publisher for a signature of it, or "
            "remove the file",
            subject=path,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A file to read, and what the manifest says of its bytes; `size_bytes` is None for shards, whose header tells."""

    path: str
    chunks: tuple[Chunk, ...]
    size_bytes: int | None


def _jobs(shards: Iterable[str], manifest: Manifest) -> list[_Job]:
    chunks: dict[str, list[Chunk]] = {shard: [] for shard in shards}
    for tensor in manifest.tensors:
        if len(tensor.chunks) != num_chunks(tensor.size_bytes, manifest.chunk_bytes) or tensor.file not in chunks:
            raise _changed(f"tensor {tensor.name} of {tensor.file}")
        chunks[tensor.file] += manifest.chunks_of(tensor)
    jobs = [
        _Job(path=shard, chunks=tuple(sorted(found, key=lambda chunk: chunk.begin)), size_bytes=None)
        for shard, found in chunks.items()
    ]
    for file in manifest.files:
        if len(file.chunks) != num_chunks(file.size_bytes, manifest.chunk_bytes):
            raise _changed(file.path)
        jobs.append(_Job(path=file.path, chunks=manifest.chunks_of(file), size_bytes=file.size_bytes))
    return jobs


def _read_all(
    folder: Path, jobs: Iterable[_Job], digests: Digests, on_bytes: Callable[[int], None] | None
) -> dict[str, FileRead]:
    pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="oms-sha256")
    try:
        futures = {job.path: pool.submit(_read_job, folder, job, digests[job.path], on_bytes) for job in jobs}
        return {path: future.result() for path, future in futures.items()}
    finally:
        pool.shutdown(cancel_futures=True)


def _read_job(folder: Path, job: _Job, sha256: str, on_bytes: Callable[[int], None] | None) -> FileRead:
    read = read_once(folder / job.path, job.chunks, with_header=job.size_bytes is None, on_bytes=on_bytes)
    same_size = job.size_bytes in (None, read.size_bytes)
    if read.sha256 != sha256 or not same_size or read.chunks != tuple(chunk.sha256 for chunk in job.chunks):
        raise _changed(job.path)
    return read


def _read_listed(folder: Path, path: str, digests: Digests, max_bytes: int) -> bytes:
    data = read_at_most(folder, path, max_bytes)
    if hashlib.sha256(data).hexdigest() != digests[path]:
        raise _changed(path)
    return data


def _changed(what: str) -> WeightsError:
    return WeightsError(
        f"{what} changed after the OMS signature was verified: nothing was signed. Let nothing write to the folder, "
        "and countersign again",
        subject=what,
    )
