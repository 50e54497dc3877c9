"""Entries in chunks: pieces of one size, each with a digest. The M numbers are clauses of docs/manifest.md."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MIN_CHUNK_BYTES = 64 * 2**10
MAX_CHUNK_BYTES = 64 * 2**20
DEFAULT_CHUNK_BYTES = 4 * 2**20  # large enough to hash and ask for in one piece, small enough to send again
MAX_MADE_CHUNKS = 100_000  # what a maker lists at most: 7 MB of digests


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Bytes [begin, end) of a file, and their SHA-256 in hex."""

    sha256: str
    file: str
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the chunk."""
        return self.end - self.begin


def is_chunk_size(chunk_bytes: int) -> bool:
    """Whether a manifest may cut its entries into chunks of this size (M8)."""
    return MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES and chunk_bytes.bit_count() == 1


def num_chunks(size_bytes: int, chunk_bytes: int) -> int:
    """Chunks of an entry of `size_bytes`; none of an empty one."""
    return -(-size_bytes // chunk_bytes)


def ranges(begin: int, end: int, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """Bytes [begin, end) cut into chunks, counted from `begin`; the last one may be shorter."""
    for start in range(begin, end, chunk_bytes):
        yield start, min(start + chunk_bytes, end)


def choose_chunk_bytes(sizes: Iterable[int]) -> int:
    """What a maker cuts entries of these sizes into.

    The smallest power of two from DEFAULT_CHUNK_BYTES on that leaves at most MAX_MADE_CHUNKS, or MAX_CHUNK_BYTES.
    """
    listed, chunk_bytes = tuple(sizes), DEFAULT_CHUNK_BYTES
    while chunk_bytes < MAX_CHUNK_BYTES and sum(num_chunks(size, chunk_bytes) for size in listed) > MAX_MADE_CHUNKS:
        chunk_bytes *= 2
    return chunk_bytes


def chunk_digests(data: bytes | bytearray | memoryview, chunk_bytes: int) -> tuple[str, ...]:
    """Hex SHA-256 of each chunk of an entry's bytes."""
    view = memoryview(data)
    return tuple(hashlib.sha256(view[begin:end]).hexdigest() for begin, end in ranges(0, len(view), chunk_bytes))
