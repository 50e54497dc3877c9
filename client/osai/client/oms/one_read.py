"""One read of a file that takes several digests of the same bytes at once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from osai.core.errors import WeightsError
from osai.core.manifest import Chunk
from osai.core.safetensors_header import LENGTH_BYTES, read_length

READ_BYTES = 2**20  # what a thread holds at once

Sink = Callable[[memoryview], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRead:
    """What one read of a file found.

    Attributes:
        size_bytes: of the whole file.
        sha256: of the whole file, in hex.
        header: its safetensors header, length prefix included; empty if none was asked for.
        chunks: SHA-256 in hex of each chunk, in the order asked for.
    """

    size_bytes: int
    sha256: str
    header: bytes
    chunks: tuple[str, ...]


def read_once(
    path: Path, chunks: Sequence[Chunk], *, with_header: bool, on_bytes: Callable[[int], None] | None = None
) -> FileRead:
    """Read a file from beginning to end, each byte once.

    Args:
        path: the file.
        chunks: by rising offset, without overlap; behind the header where that is kept.
        with_header: keep the safetensors header.
        on_bytes: told of bytes as they are read.

    Raises:
        WeightsError: if it can't be read, has no safetensors header, or other bounds than the chunks'.
    """
    whole, header, found = hashlib.sha256(), bytearray(), []
    try:
        with path.open("rb", buffering=0) as file:
            reader = _Reader(file=file, path=path, whole=whole.update, on_bytes=on_bytes)
            if with_header:
                reader.take(LENGTH_BYTES, header.extend)
                reader.take(read_length(bytes(header)), header.extend)
            for chunk in chunks:
                digest = hashlib.sha256()
                reader.take(chunk.begin - reader.position)
                reader.take(chunk.end - chunk.begin, digest.update)
                found.append(digest.hexdigest())
            reader.take_rest()
    except OSError as e:
        raise WeightsError(f"can't read {path}: {e.strerror}", subject=path.name) from e
    return FileRead(size_bytes=reader.position, sha256=whole.hexdigest(), header=bytes(header), chunks=tuple(found))


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Hands each byte to the whole file's digest, and to one more sink."""

    file: FileIO
    path: Path
    whole: Sink
    on_bytes: Callable[[int], None] | None
    position: int = 0
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))

    def take(self, count: int, sink: Sink | None = None) -> None:
        """Read exactly `count` bytes."""
        if count < 0:
            raise self._changed()
        end = self.position + count
        while self.position < end:
            if not self._step(end - self.position, sink):
                raise self._changed()

    def take_rest(self) -> None:
        """Read to the end."""
        while self._step(READ_BYTES, None):
            pass

    def _step(self, at_most: int, sink: Sink | None) -> int:
        count = self.file.readinto(self.buffer[: min(at_most, READ_BYTES)]) or 0
        data = self.buffer[:count]
        self.whole(data)
        if sink is not None:
            sink(data)
        self.position += count
        if self.on_bytes is not None:
            self.on_bytes(count)
        return count

    def _changed(self) -> WeightsError:
        return WeightsError(f"{self.path} changed while it was read; let nothing write to it", subject=self.path.name)
