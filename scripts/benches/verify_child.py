"""Child of the bench `verify`: reads, hashes, and loads a checkpoint's weights, in the environment that a node has."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from scripts.benches.machine import num_cores

from osai.client.signing import build_manifest
from osai.core.errors import SetupError
from osai.core.manifest import Chunk, SignedManifest, parse, unsigned
from osai.node.machine import prepare_cores

MAX_THREADS = 4  # of transformers' loader, which reads so many tensors at once


def main(folder: Path) -> None:
    """Take a turn of each way for each line that comes, and tell the bytes a second, and CPU seconds."""
    prepare_cores(None)  # before torch
    from osai.node.weights.source import LocalFolder  # noqa: PLC0415

    signed = parse(unsigned(build_manifest(folder, "bench/verify", 1, None)))
    chunks = [chunk for entry in signed.manifest.tensors for chunk in signed.manifest.chunks_of(entry)]
    contents = [bytes(LocalFolder(folder).read(chunk.file, chunk.begin, chunk.end)) for chunk in chunks]
    num_bytes = sum(chunk.size_bytes for chunk in chunks)
    _load(folder, signed)  # imports, and first uses
    ways: dict[str, Callable[[], None]] = {
        "disk": lambda: _read(folder, chunks),
        "sha256": lambda: _hash(contents, num_threads()),
        "one_sha256": lambda: _hash(contents, 1),
        "cold": lambda: _load(folder, signed),
        "warm": lambda: _load(folder, signed),
        "bare": lambda: _bare(folder, signed),
    }
    for _ in sys.stdin:
        rates, cpu_s = {}, {}
        for name, way in ways.items():
            if name in {"disk", "cold", "bare"}:
                _forget(folder)
            before_s = time.process_time()
            rates[name] = num_bytes / _seconds(way)
            cpu_s[name] = time.process_time() - before_s
        print(json.dumps({"num_bytes": num_bytes, "rates": rates, "cpu_s": cpu_s}), flush=True)


def num_threads() -> int:
    """In which everything is done."""
    return min(MAX_THREADS, num_cores())


def _seconds(work: Callable[[], None]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def _forget(folder: Path) -> None:
    """Take the files out of this machine's page cache."""
    os.sync()  # what is not written yet would stay
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(folder: Path, chunks: list[Chunk]) -> None:
    """The ranges that the loader reads, into memory that is there already."""
    memories = [bytearray(max(chunk.size_bytes for chunk in chunks)) for _ in range(num_threads())]
    with _opened(folder, chunks) as files:

        def read(part: int) -> None:
            for chunk in chunks[part :: num_threads()]:
                _fill(files[chunk.file], chunk, memoryview(memories[part])[: chunk.size_bytes])

        _in_threads(read, num_threads())


def _bare(folder: Path, signed: SignedManifest) -> None:
    """Each tensor read with preadv into new memory, and hashed there: what a loader can't do without."""
    import torch  # noqa: PLC0415 - not before the cores are set

    tensors = [(entry, signed.manifest.chunks_of(entry)) for entry in signed.manifest.tensors]
    with _opened(folder, [chunk for _, chunks in tensors for chunk in chunks]) as files:

        def load(part: int) -> None:
            for entry, chunks in tensors[part :: num_threads()]:
                memory = torch.empty(entry.size_bytes, dtype=torch.uint8).numpy().data
                for chunk in chunks:
                    own = memory[chunk.begin - entry.begin : chunk.end - entry.begin]
                    _fill(files[chunk.file], chunk, own)
                    hashlib.sha256(own).digest()

        _in_threads(load, num_threads())


@contextmanager
def _opened(folder: Path, chunks: list[Chunk]) -> Iterator[dict[str, int]]:
    """File descriptors by name."""
    files = {name: os.open(folder / name, os.O_RDONLY) for name in {chunk.file for chunk in chunks}}
    try:
        yield files
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _fill(file: int, chunk: Chunk, memory: memoryview) -> None:
    filled = 0
    while filled < len(memory):
        count = os.preadv(file, [memory[filled:]], chunk.begin + filled)
        if not count:
            raise SetupError(f"{chunk.file} ends too early: make the checkpoint anew")
        filled += count


def _hash(contents: list[bytes], num_threads: int) -> None:
    """The same bytes, out of memory: more of them than any cache of a core holds."""

    def digest(part: int) -> None:
        for data in contents[part::num_threads]:
            hashlib.sha256(data).digest()

    _in_threads(digest, num_threads)


def _in_threads(work: Callable[[int], None], count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def _load(folder: Path, signed: SignedManifest) -> None:
    """Every tensor, as transformers' loader has them read, before they go into the model."""
    from osai.node.weights.source import open_source  # noqa: PLC0415 - these bring torch
    from osai.node.weights.verified import VerifiedCheckpoint  # noqa: PLC0415

    checkpoint = VerifiedCheckpoint(open_source(str(folder)), signed)
    names = checkpoint.names

    def load(part: int) -> None:
        for name in names[part :: num_threads()]:
            checkpoint.tensor(name)[...]

    _in_threads(load, num_threads())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
