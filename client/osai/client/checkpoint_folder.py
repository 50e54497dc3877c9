"""A checkpoint's folder on disk: which files, what their headers say, and digests of their bytes."""

import hashlib
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from osai.core.errors import WeightsError
from osai.core.manifest import TensorEntry
from osai.core.manifest.check import is_web_address
from osai.core.manifest.names import TEMPLATES_FOLDER
from osai.core.manifest.select import INDEX_FILE, MAX_INDEX_BYTES, select_shards, tensor_entries
from osai.core.safetensors_header import LENGTH_BYTES, TensorSpan, parse_header, read_length

NUM_THREADS = 2  # SHA-256 runs at 1.2 GiB/s a thread or more, as fast as most disks read
MAX_CARD_BYTES = 2**20  # model cards are far smaller
READ_BYTES = 2**20  # what a thread holds at once

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes [begin, end) of a file; `subject` is the file or tensor that they are."""

    file: str
    begin: int
    end: int
    subject: str


def list_files(folder: Path) -> frozenset[str]:
    """The folder's own files and its additional chat templates, as relative paths. Links are followed.

    Raises:
        WeightsError: if it can't be read.
    """
    try:
        own = {entry.name for entry in folder.iterdir() if entry.is_file()}
        templates = folder / TEMPLATES_FOLDER
        nested = templates.iterdir() if templates.is_dir() else ()
        return frozenset(own | {f"{TEMPLATES_FOLDER}/{entry.name}" for entry in nested if entry.is_file()})
    except OSError as e:
        raise _unreadable(str(folder), e) from e


def size_of(folder: Path, path: str) -> int:
    """Size of one file in bytes.

    Raises:
        WeightsError: if it can't be read.
    """
    try:
        return (folder / path).stat().st_size
    except OSError as e:
        raise _unreadable(path, e) from e


def read_at_most(folder: Path, path: str, max_bytes: int) -> bytes:
    """The content of a small file.

    Raises:
        WeightsError: if it can't be read or is larger.
    """
    try:
        with (folder / path).open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as e:
        raise _unreadable(path, e) from e
    if len(data) > max_bytes:
        raise WeightsError(f"{path} is over the limit of {max_bytes} bytes", subject=path)
    return data


@dataclass(frozen=True, slots=True)
class CardLicence:
    """A licence as a model card names it, and the address of its words; either may be empty."""

    name: str = ""
    url: str = ""


def card_licence(folder: Path, paths: frozenset[str]) -> CardLicence:
    """`license:` of the model card's front matter, or `license_name:` where that says more, and `license_link:`."""
    if "README.md" not in paths:
        return CardLicence()
    lines = read_at_most(folder, "README.md", MAX_CARD_BYTES).decode(errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return CardLicence()
    fields = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        name, _, value = line.partition(":")
        fields[name] = value.strip().strip("'\"")
    licence, url = fields.get("license", ""), fields.get("license_link", "")
    name = fields.get("license_name", licence) if licence == "other" else licence
    return CardLicence(name, url if is_web_address(url) else "")


def read_tensors(folder: Path, paths: Iterable[str]) -> tuple[TensorEntry, ...]:
    """Entries of the checkpoint's tensors from the shards' headers, without digests.

    Raises:
        WeightsError: if a shard is missing or damaged, or there is none.
    """
    listed = frozenset(paths)
    index = read_at_most(folder, INDEX_FILE, MAX_INDEX_BYTES) if INDEX_FILE in listed else None
    shards = select_shards(listed, index)
    return tensor_entries(shards, {shard: _read_header(folder, shard) for shard in shards})


def _read_header(folder: Path, shard: str) -> dict[str, TensorSpan]:
    try:
        with (folder / shard).open("rb") as file:
            prefix = file.read(LENGTH_BYTES)
            header = prefix + file.read(read_length(prefix))
        return parse_header(header, file_bytes=size_of(folder, shard))
    except OSError as e:
        raise _unreadable(shard, e) from e
    except WeightsError as e:
        raise WeightsError(f"{shard}: {e.message}", subject=e.subject or shard) from e


def hash_regions(folder: Path, regions: Iterable[Region], on_bytes: OnBytes | None) -> Generator[str, None, None]:
    """SHA-256 of each region in hex, in order, computed ahead in a few threads. Closing it early stops them.

    Args:
        folder: what the regions' files are relative to.
        regions: any number; memory does not grow with their size.
        on_bytes: told of bytes as they are hashed, from several threads.

    Raises:
        WeightsError: if a file can't be read, or ends before a region does.
    """
    pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="sha256")
    try:
        for future in [pool.submit(_hash, folder, region, on_bytes) for region in regions]:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _hash(folder: Path, region: Region, on_bytes: OnBytes | None) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(READ_BYTES, region.end - region.begin)))
    left = region.end - region.begin
    try:
        with (folder / region.file).open("rb", buffering=0) as file:
            file.seek(region.begin)
            while left:
                count = file.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise WeightsError(
                        f"{region.file} ends within {region.subject}; fetch it again", subject=region.file
                    )
                digest.update(buffer[:count])
                left -= count
                if on_bytes is not None:
                    on_bytes(count)
    except OSError as e:
        raise _unreadable(region.file, e) from e
    return digest.hexdigest()


def _unreadable(path: str, error: OSError) -> WeightsError:
    return WeightsError(f"can't read {path}: {error.strerror or error}", subject=path)
