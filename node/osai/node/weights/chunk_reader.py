"""Reading a manifest's entries chunk by chunk; no byte is given on before its chunk's digest is checked."""

import hashlib
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch

from osai.core.errors import WeightsError
from osai.core.manifest import Chunk, FileEntry, Manifest, TensorEntry
from osai.node.weights.source import CheckpointSource, PlacingSource, SecondSource

NUM_THREADS = 2  # for one entry: the next chunk is read while this one is hashed


class ChunkReader:
    """Reads and verifies entries. Safe to use from several threads at once.

    Args:
        source: where the bytes come from.
        manifest: what they must be; every entry has its digests.
        on_bytes: told of a chunk's bytes once they are verified; called from the reading threads.
    """

    def __init__(self, source: CheckpointSource, manifest: Manifest, on_bytes: Callable[[int], None] | None) -> None:
        self._source = source
        self._manifest = manifest
        self._on_bytes = on_bytes

    def read(self, entry: FileEntry | TensorEntry) -> torch.Tensor:
        """The entry's bytes as numbers of 8 bits, alone in their memory.

        Raises:
            WeightsError: if they can't be read or differ from the manifest.
        """
        chunks = self._manifest.chunks_of(entry)
        if len(chunks) == 1 and not isinstance(self._source, PlacingSource):  # what the source gives is the tensor
            data = self._fetch(entry, chunks[0])
            owned = data if isinstance(data, bytearray) else bytearray(data)
            self._accept(entry, chunks[0], owned)
            return torch.frombuffer(owned, dtype=torch.uint8)
        try:
            whole = torch.empty(entry.size_bytes, dtype=torch.uint8)
        except RuntimeError as e:  # torch's word for no memory
            what, subject = _words(entry)
            raise WeightsError(f"{what}: its {entry.size_bytes} bytes do not fit in memory", subject=subject) from e
        if chunks:
            self._fill(whole.numpy().data, entry, chunks)
        return whole

    def _fill(self, whole: memoryview, entry: FileEntry | TensorEntry, chunks: tuple[Chunk, ...]) -> None:
        """Read and verify the chunks, each in its place; one is read while another one is hashed."""

        def place(chunk: Chunk) -> None:
            at = chunk.begin - chunks[0].begin
            own = whole[at : at + chunk.size_bytes]
            self._place(entry, chunk, own)
            self._accept(entry, chunk, own)  # M16: of its place, not of what was copied there

        if len(chunks) == 1:
            place(chunks[0])
            return
        pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="chunks")
        try:
            placed = [pool.submit(place, chunk) for chunk in chunks]
            wait(placed, return_when=FIRST_EXCEPTION)  # each read of a source has its own deadline
        finally:
            pool.shutdown(cancel_futures=True)  # M16: after a difference nothing more is read
        for future in placed:
            if not future.cancelled():
                future.result()

    def _place(self, entry: FileEntry | TensorEntry, chunk: Chunk, own: memoryview) -> None:
        if not isinstance(self._source, PlacingSource):
            own[:] = self._fetch(entry, chunk)
            return
        what, subject = _words(entry)
        try:
            self._source.read_into(chunk.file, chunk.begin, own)
        except WeightsError as e:
            raise WeightsError(f"{what} can't be read: {e.message}", subject=subject) from e

    def _fetch(self, entry: FileEntry | TensorEntry, chunk: Chunk, *, again: bool = False) -> bytes | bytearray:
        what, subject = _words(entry)
        source = self._source
        read = source.read_again if again and isinstance(source, SecondSource) else source.read
        try:
            data = read(chunk.file, chunk.begin, chunk.end)
        except WeightsError as e:
            raise WeightsError(f"{what} can't be read: {e.message}", subject=subject) from e
        if len(data) != chunk.size_bytes:
            raise self._differs(entry, chunk)
        return data

    def _accept(self, entry: FileEntry | TensorEntry, chunk: Chunk, data: bytearray | memoryview) -> None:
        if hashlib.sha256(data).hexdigest() != chunk.sha256:
            if not isinstance(self._source, SecondSource):
                raise self._differs(entry, chunk)
            data[:] = self._fetch(entry, chunk, again=True)
            if hashlib.sha256(data).hexdigest() != chunk.sha256:
                raise self._differs(entry, chunk)
        if self._on_bytes is not None:
            self._on_bytes(chunk.size_bytes)

    def _differs(self, entry: FileEntry | TensorEntry, chunk: Chunk) -> WeightsError:
        what, subject = _words(entry)
        return WeightsError(
            f"{what} in {self._source.describe()} differs from the manifest in bytes [{chunk.begin}, {chunk.end}) of "
            "the file: it is damaged or was altered, and is not used; fetch it again from the publisher",
            subject=subject,
        )


def _words(entry: FileEntry | TensorEntry) -> tuple[str, str]:
    """The entry in words, and whom errors are about."""
    if isinstance(entry, FileEntry):
        return f"file {entry.path}", entry.path
    return f"tensor {entry.name} of {entry.file}", entry.name
