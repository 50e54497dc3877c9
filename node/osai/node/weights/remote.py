"""Checkpoints behind any URL that fsspec knows (https, s3, gs, ...), read by byte range."""

from typing import Any
from urllib.parse import urlsplit

import fsspec

from osai.core.errors import SetupError, WeightsError
from osai.core.manifest.names import TEMPLATES_FOLDER, is_plain_name
from osai.node.weights.source import check_range

PIECE_BYTES = 32 * 2**20  # what one request asks for: bounds memory beside the tensor, and what a broken one repeats
CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 30.0  # between two pieces of a body


class RemoteFolder:
    """A folder behind a URL.

    Raises:
        SetupError: if fsspec does not know the URL's scheme, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self._name = f"{parts.scheme}://{host}{parts.path}"  # without password and query: it is shown
        try:
            self._fs, root = fsspec.core.url_to_fs(url.rstrip("/"), **_options(parts.scheme))
        except (ImportError, ValueError) as e:
            raise SetupError(f"{self._name} can't be read: {e}") from e
        self._root = str(root)

    def read(self, file: str, begin: int, end: int) -> bytearray:
        """See CheckpointSource."""
        check_range(file, begin, end)
        data = bytearray()
        for start in range(begin, end, PIECE_BYTES):
            stop = min(start + PIECE_BYTES, end)
            piece = self._piece(file, start, stop)
            if len(piece) != stop - start:
                raise WeightsError(
                    f"{self._name} sent {len(piece)} bytes of {file} where {stop - start} were asked for: the file is "
                    "cut short, or the server does not serve byte ranges",
                    subject=file,
                )
            data += piece
        return data

    def _piece(self, file: str, begin: int, end: int) -> bytes:
        # Most file systems fetch whole blocks around what is read; cache_type="none" is fsspec's word for exactly it.
        # Those that fetch asynchronously (http, s3, gcs) read exactly anyhow, and pass other words on to their client.
        exactly = {} if self._fs.async_impl else {"cache_type": "none"}
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{file}", start=begin, end=end, **exactly))
        except Exception as e:
            raise self._unreadable(file, e) from e

    def size(self, file: str) -> int:
        """See CheckpointSource."""
        check_range(file, 0, 0)
        try:
            size = self._fs.size(f"{self._root}/{file}")
        except Exception as e:
            raise self._unreadable(file, e) from e
        if not isinstance(size, int):
            raise WeightsError(f"{self._name} does not tell the size of {file}", subject=file)
        return size

    def list_files(self) -> frozenset[str]:
        """See CheckpointSource. Over http this reads the server's own page of links."""
        try:
            own, folders = self._names(self._root)
            templates, _ = self._names(f"{self._root}/{TEMPLATES_FOLDER}") if TEMPLATES_FOLDER in folders else ((), ())
        except Exception as e:
            raise self._unreadable("the folder", e) from e
        return own | {f"{TEMPLATES_FOLDER}/{name}" for name in templates}

    def _names(self, folder: str) -> tuple[frozenset[str], frozenset[str]]:
        """Plain names of the files and of the folders there."""
        names: dict[bool, set[str]] = {False: set(), True: set()}
        for entry in self._fs.ls(folder, detail=True):
            name = str(entry["name"]).rstrip("/").rpartition("/")[2]
            if is_plain_name(name):
                names[entry["type"] == "directory"].add(name)
        return frozenset(names[False]), frozenset(names[True])

    def describe(self) -> str:
        """See CheckpointSource."""
        return self._name

    def _unreadable(self, file: str, error: Exception) -> WeightsError:
        reason = str(error) or type(error).__name__
        return WeightsError(f"can't read {file} from {self._name}: {reason}", subject=file)


def _options(scheme: str) -> dict[str, Any]:
    """What a file system is opened with: no listing of an earlier open, and deadlines where fsspec sets none."""
    options: dict[str, Any] = {"skip_instance_cache": True}
    if scheme in {"http", "https"}:
        import aiohttp  # noqa: PLC0415 (fsspec's own HTTP client, an ImportError says what to install)

        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        options["client_kwargs"] = {"timeout": timeout}
    return options
