"""Where checkpoint bytes come from. A source is not trusted: what it gives is checked against the manifest."""

import re
from pathlib import Path
from typing import Protocol, runtime_checkable

from osai.core.errors import SetupError, WeightsError
from osai.core.manifest.names import TEMPLATES_FOLDER, is_plain_name

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class CheckpointSource(Protocol):
    """Reads a checkpoint's files by byte range. Safe to use from several threads at once."""

    def read(self, file: str, begin: int, end: int) -> bytes | bytearray:
        """Bytes [begin, end) of a file, exactly; a bytearray becomes the caller's own.

        Raises:
            WeightsError: if the file or some of the bytes can't be had.
        """
        ...

    def size(self, file: str) -> int:
        """Size of a file in bytes.

        Raises:
            WeightsError: if it is missing or can't be asked for.
        """
        ...

    def list_files(self) -> frozenset[str]:
        """The checkpoint's own files and its additional chat templates, at least, as relative paths.

        Raises:
            WeightsError: if the source can't be listed.
        """
        ...

    def describe(self) -> str:
        """The source in words, for messages."""
        ...


@runtime_checkable
class SecondSource(CheckpointSource, Protocol):
    """One that can give bytes anew, from elsewhere."""

    def read_again(self, file: str, begin: int, end: int) -> bytes | bytearray:
        """As `read`, after what that gave has proved wrong.

        Raises:
            WeightsError: if there is no other place to have them from.
        """
        ...


@runtime_checkable
class PlacingSource(CheckpointSource, Protocol):
    """One that can put bytes where they are to stay: it spares a copy, and memory that is used once."""

    def read_into(self, file: str, begin: int, memory: memoryview) -> None:
        """As `read`, of as many bytes as the memory has; it may hold anything where that fails.

        Raises:
            WeightsError: if the file or some of the bytes can't be had.
        """
        ...


def read_file(source: CheckpointSource, file: str, max_bytes: int) -> bytes:
    """A whole small file.

    Raises:
        WeightsError: if it can't be had or is over `max_bytes`.
    """
    size = source.size(file)
    if size > max_bytes:
        raise WeightsError(f"{file} has {size} bytes, over the limit of {max_bytes}", subject=file)
    return bytes(source.read(file, 0, size))


def check_range(file: str, begin: int, end: int) -> None:
    """Refuse what no source may be asked for: a path that leaves the checkpoint, a range that is none.

    Raises:
        WeightsError: if the request is one of them.
    """
    if not is_plain_name(file):
        raise WeightsError(f"{file[:80]!r} is no path inside a checkpoint")
    if not 0 <= begin <= end:
        raise WeightsError(f"bytes [{begin}, {end}) are no range of {file}", subject=file)


class LocalFolder:
    """A folder on this machine. Links are followed, as the hub's cache is made of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, file: str, begin: int, end: int) -> bytearray:
        """See CheckpointSource. The bytes are a copy: what happens to the file later does not reach them."""
        check_range(file, begin, end)
        if end > self.size(file):  # before any memory is set aside
            raise WeightsError(f"{file} ends before byte {end}; fetch it again", subject=file)
        data = bytearray(end - begin)
        self._fill(file, begin, memoryview(data))
        return data

    def _fill(self, file: str, begin: int, memory: memoryview) -> None:
        filled = 0
        try:
            with (self._folder / file).open("rb", buffering=0) as opened:
                opened.seek(begin)
                while filled < len(memory) and (count := opened.readinto(memory[filled:])):
                    filled += count
        except OSError as e:
            raise self._unreadable(file, e) from e
        if filled < len(memory):
            raise WeightsError(f"{file} ends before byte {begin + len(memory)}; fetch it again", subject=file)

    def size(self, file: str) -> int:
        """See CheckpointSource."""
        check_range(file, 0, 0)
        path = self._folder / file
        try:
            if not path.is_file():  # a pipe would block its reader
                raise WeightsError(f"{file} is missing from {self.describe()}; fetch it again", subject=file)
            return path.stat().st_size
        except OSError as e:
            raise self._unreadable(file, e) from e

    def list_files(self) -> frozenset[str]:
        """See CheckpointSource."""
        try:
            own = {entry.name for entry in self._folder.iterdir() if entry.is_file()}
            templates = self._folder / TEMPLATES_FOLDER
            nested = templates.iterdir() if templates.is_dir() else ()
            return frozenset(own | {f"{TEMPLATES_FOLDER}/{entry.name}" for entry in nested if entry.is_file()})
        except OSError as e:
            raise self._unreadable(str(self._folder), e) from e

    def describe(self) -> str:
        """See CheckpointSource."""
        return f"folder {self._folder}"

    @staticmethod
    def _unreadable(file: str, error: OSError) -> WeightsError:
        return WeightsError(f"can't read {file}: {error.strerror or error}", subject=file)


class PlacingFolder(LocalFolder):
    """A folder on this machine whose bytes are read to where they are to stay; see PlacingSource."""

    def read_into(self, file: str, begin: int, memory: memoryview) -> None:
        """See PlacingSource."""
        check_range(file, begin, begin + len(memory))
        if begin + len(memory) > self.size(file):  # which also refuses what is no file
            raise WeightsError(f"{file} ends before byte {begin + len(memory)}; fetch it again", subject=file)
        self._fill(file, begin, memory)


def open_source(spec: str, revision: str | None = None) -> CheckpointSource:
    """A checkpoint by what people call it.

    Args:
        spec: a folder, a hub id (`org/name` or `hf://org/name`), or a URL that fsspec knows, as in https://host/model.
        revision: branch, tag or commit; for a hub id only, whose main branch is the default.

    Raises:
        SetupError: if `spec` is none of these, or needs a package that is not installed.
        WeightsError: if the hub can't be reached or does not know it.
    """
    folder = Path(spec.removeprefix("file://")).expanduser()
    hub_id = spec.removeprefix("hf://")
    is_hub_id = _HUB_ID.fullmatch(hub_id) is not None
    if spec and folder.is_dir() and revision is None:
        return PlacingFolder(folder)
    if is_hub_id:
        from osai.node.weights.hub import HubRepository  # noqa: PLC0415 (only those who read the hub pay for it)

        return HubRepository(hub_id, revision)
    if revision is not None:
        raise SetupError(f"a revision goes with a hub id, and {spec} is none; leave it out")
    if "://" in spec and not spec.startswith(("file://", "hf://")):
        from osai.node.weights.remote import RemoteFolder  # noqa: PLC0415 (as above)

        return RemoteFolder(spec)
    raise SetupError(f"there is no folder {spec!r}; give a checkpoint's folder, a hub id (org/name) or a URL")
