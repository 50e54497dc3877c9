"""A web server on loopback that gives out a folder by byte range, and counts the bytes."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE_BYTES = 2**20


class CountedFiles(ThreadingHTTPServer):
    """Serves the files of one folder, and nothing below it.

    Attributes:
        counted: bytes of bodies that went out, by file.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.counted: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Of the folder."""
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, file: str, num_bytes: int) -> None:
        """So many bytes have gone out."""
        with self._lock:
            self.counted[file] += num_bytes

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> "Iterator[CountedFiles]":
        """Serve while the block runs."""
        with cls(folder) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: CountedFiles
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer as GET does, without the bytes."""
        self.do_GET()

    def do_GET(self) -> None:
        """A file, or the range of it that is asked for."""
        path = self.server.folder / self.path.partition("?")[0].rpartition("/")[2]
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        begin, end = _range(self.headers.get("Range"), size)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            file.seek(begin)
            while begin < end and (piece := file.read(min(PIECE_BYTES, end - begin))):
                self.wfile.write(piece)
                begin += len(piece)
                self.server.count(path.name, len(piece))


def _range(header: str | None, size: int) -> tuple[int, int]:
    """Bytes [begin, end) that a header asks for; all of them without one."""
    first, _, last = (header or "bytes=0-").removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1, size) if last else size
