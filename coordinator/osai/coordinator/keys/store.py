"""The keys file (A3): read, changed under a lock, and watched."""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from osai.coordinator.keys.book import MAX_BOOK_BYTES, KeyBook
from osai.coordinator.keys.keyring import Keyring
from osai.core.errors import SetupError, TrustError
from osai.core.secret_files import write_secret

log = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[int, int, int]

KEYS_FILE = "api-keys.json"  # in the state folder
LOOK_S = 1.0  # between looks at the file: how long a revoked key is still good (A6)
LOCK_DEADLINE_S = 5.0  # another command holds the lock for milliseconds
_LOCK_RETRY_S = 0.02
_WRITABLE_BY_OTHERS = 0o022


@dataclass(frozen=True, slots=True)
class KeysFile:
    """A coordinator's keys on disk."""

    path: Path

    def stamp(self) -> Stamp | None:
        """What changes with each version of the file; None where there is none."""
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def read(self) -> KeyBook:
        """The keys; none where there is no file.

        Raises:
            SetupError: if it can't be read, is damaged, or others may write it.
        """
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & _WRITABLE_BY_OTHERS:
                    raise SetupError(f"others may write {self.path}, so its keys are not believed: chmod 600 it")
                return KeyBook.from_json(file.read(MAX_BOOK_BYTES + 1))  # what is too long is refused by its reader
        except FileNotFoundError:
            return KeyBook()
        except OSError as e:
            raise SetupError(f"the keys file {self.path} can't be read: {e.strerror}") from e
        except TrustError as e:
            raise SetupError(f"{self.path}: {e.message}") from e

    def change(self, how: Callable[[KeyBook], tuple[KeyBook, T]]) -> T:
        """Replace the keys by what `how` makes of them; what it says beside.

        Raises:
            SetupError: if the file can't be read or written.
            OsaiError: that `how` raises; nothing is changed then.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked():
                book, said = how(self.read())
                write_secret(self.path, book.to_json())
        except OSError as e:
            raise SetupError(f"the keys file {self.path} can't be written: {e.strerror}; give another --keys") from e
        return said

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Commands that change the file take turns."""
        until_s = time.monotonic() + LOCK_DEADLINE_S
        with self.path.with_name(self.path.name + ".lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until_s:
                        raise SetupError(f"another command is changing {self.path}: try again") from None
                    time.sleep(_LOCK_RETRY_S)
            yield


class KeyWatch:
    """Keeps a keyring as its file is.

    Args:
        file: which must exist.
        look_s: between looks at it.

    Raises:
        SetupError: if it does not, or can't be read.
    """

    def __init__(self, file: KeysFile, look_s: float = LOOK_S) -> None:
        self._file = file
        self._look_s = look_s
        self._stamp = file.stamp()
        if self._stamp is None:
            raise SetupError(f"there are no API keys in {file.path}: make one with `osai-coordinator key create`")
        self.keyring = Keyring(file.read())

    async def run(self) -> None:
        """Look, for ever. A file that is gone has no keys; one that is damaged changes nothing."""
        while True:
            await asyncio.sleep(self._look_s)
            stamp = await asyncio.to_thread(self._file.stamp)
            if stamp != self._stamp:
                self._stamp = stamp
                await self._read()
            self.keyring.look()

    async def _read(self) -> None:
        try:
            book = await asyncio.to_thread(self._file.read)
        except SetupError as e:
            log.error("the API keys stay as they were: %s", e)  # noqa: TRY400 - it says all
            return
        log.info("the API keys have changed: %d are in the file", len(book.keys))
        self.keyring.replace(book)
