"""Chunks kept on disk, one file each, named by its SHA-256. Without torch.

A chunk is written beside its place and renamed into it, so that no process ever sees half of one. It is written under
the digest of the very bytes in hand, so that no name can be wrong. What is read back may have been damaged since:
whoever reads hashes, and drops what differs. Several processes may use one folder at once.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from osai.core.errors import SetupError
from osai.node.weights.eviction import Kept, choose_evictions

log = logging.getLogger(__name__)

DEFAULT_FOLDER = Path("~/.cache/osai/chunks")
DEFAULT_SHARE = 0.1  # of what the disk has free, and of what the cache has already
LOOK_SHARE = 1 / 64  # of the limit: after writing so much a process looks at what the others have written
LEFT_OVER_S = 3600.0  # a file beside its place that is older was left by a process that died
TOUCH_S = 60.0  # a chunk that is read more often is not marked as used each time
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Hashed:
    """Bytes and their SHA-256 in hex, which is computed here and nowhere else."""

    data: bytes | bytearray
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())


class ChunkCache:
    """A folder of chunks. Safe to use from several threads, and processes.

    Args:
        folder: made when the first chunk is written.
        max_bytes: of all chunks; None for a tenth of what the disk has free at first.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder = folder.expanduser()
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._unlooked: float | None = None  # bytes written since the last look at all chunks; None: never looked

    @property
    def max_bytes(self) -> int:
        """What it may take."""
        if self._max_bytes is None:
            self._max_bytes = self._default_max_bytes()
        return self._max_bytes

    def _default_max_bytes(self) -> int:
        there = next((path for path in (self.folder, *self.folder.parents) if path.exists()), Path("/"))
        return int((shutil.disk_usage(there).free + sum(one.size_bytes for one in self.kept())) * DEFAULT_SHARE)

    def __contains__(self, sha256: str) -> bool:
        return self._path(sha256).is_file()

    def read(self, sha256: str) -> bytearray | None:
        """A chunk's bytes, which nobody has verified since they were written; None where it is not here."""
        try:
            data = bytearray(self._path(sha256).stat().st_size)
        except OSError:
            return None
        return data if self.read_into(sha256, memoryview(data)) else None

    def read_into(self, sha256: str, memory: memoryview) -> bool:
        """As `read`, to where the bytes are to stay; False, with anything in the memory, where it has another size."""
        try:
            with self._path(sha256).open("rb", buffering=0) as file:
                found, filled = os.fstat(file.fileno()), 0
                while filled < len(memory) and (count := file.readinto(memory[filled:])):
                    filled += count
                if time.time() - found.st_mtime > TOUCH_S:
                    os.utime(file.fileno())
        except OSError:
            return False
        return found.st_size == filled == len(memory)

    def put(self, chunk: Hashed) -> bool:
        """Keep a chunk; whether it is here now. A disk that is full or read-only is told of in the log."""
        path = self._path(chunk.sha256)
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                beside.write_bytes(chunk.data)
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as e:
            log.warning("a chunk is not kept in %s: %s; give more room with --cache", self.folder, e.strerror or e)
            return False
        self._count(len(chunk.data))
        return True

    def drop(self, sha256: str) -> None:
        """Remove a chunk; nothing where it is not here."""
        with contextlib.suppress(OSError):
            self._path(sha256).unlink(missing_ok=True)

    def kept(self) -> Iterator[Kept]:
        """Every chunk that is here, in no order."""
        for folder in _entries(self.folder):
            for entry in _entries(Path(folder.path)) if folder.is_dir(follow_symlinks=False) else ():
                with contextlib.suppress(OSError):  # another process may just remove it
                    if _DIGEST.fullmatch(entry.name):
                        found = entry.stat(follow_symlinks=False)
                        yield Kept(sha256=entry.name, size_bytes=found.st_size, used_s=found.st_mtime)
                    elif entry.name.startswith(".") and time.time() - entry.stat().st_mtime > LEFT_OVER_S:
                        Path(entry.path).unlink(missing_ok=True)

    def prune(self, max_bytes: int) -> tuple[Kept, ...]:
        """Remove the least recently used chunks, so that the others take at most `max_bytes`; those removed."""
        gone = choose_evictions(self.kept(), max_bytes)
        for one in gone:
            self.drop(one.sha256)
        return gone

    def _count(self, num_bytes: int) -> None:
        """Look at all chunks now and then: a look takes milliseconds, and others may write too."""
        with self._lock:
            self._unlooked = None if self._unlooked is None else self._unlooked + num_bytes
            if self._unlooked is not None and self._unlooked < self.max_bytes * LOOK_SHARE:
                return
            self._unlooked = 0
        room = self.max_bytes * LOOK_SHARE  # for what is written until the next look
        if gone := self.prune(int(self.max_bytes - room)):
            log.info("the cache is full: %d chunks that were not used for long are removed", len(gone))

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256


def open_cache(folder: Path | None, max_bytes: int | None) -> ChunkCache | None:
    """The cache in `folder`; None where there is to be none.

    Raises:
        SetupError: if something else lies there.
    """
    if folder is None:
        return None
    cache = ChunkCache(folder, max_bytes)
    if cache.folder.exists() and not cache.folder.is_dir():
        raise SetupError(f"{cache.folder} is no folder; name another one with --cache, or --no-cache")
    return cache


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []
