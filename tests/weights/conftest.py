"""A small signed checkpoint, and servers on loopback that give it out."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from osai.client.signing import build_manifest
from osai.core.identity import Identity
from osai.core.manifest import SignedManifest, parse, sign

COMMIT = "0123456789abcdef0123456789abcdef01234567"

TENSORS: dict[str, dict[str, torch.Tensor]] = {
    "model-00001-of-00002.safetensors": {
        "model.embed_tokens.weight": torch.arange(64, dtype=torch.float32).reshape(16, 4),
        "model.layers.0.mlp.up_proj.weight": torch.full((4, 4), 1.5, dtype=torch.bfloat16),
        "model.layers.0.empty": torch.zeros(0, 4),
    },
    "model-00002-of-00002.safetensors": {
        "model.layers.1.mlp.up_proj.weight": torch.full((300, 40), 2.0, dtype=torch.float16),
        "model.norm.weight": torch.ones(4),
    },
}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint."""
    return {name: tensor for shard in TENSORS.values() for name, tensor in shard.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two shards."""
    path = tmp_path / "small"
    path.mkdir()
    for shard, tensors in TENSORS.items():
        save_file(tensors, path / shard)
    weight_map = {name: shard for shard, tensors in TENSORS.items() for name in tensors}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (path / "config.json").write_text('{"num_hidden_layers": 2}')
    (path / "tokenizer.json").write_text("{}")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    return path


@pytest.fixture
def signed(folder: Path) -> SignedManifest:
    return parse(sign(build_manifest(folder, "me/small", 1, "mit"), Identity.generate()))


class FakeHub(ThreadingHTTPServer):
    """What the hub's client asks of huggingface.co: one repository, `me/small`, at one commit.

    As on the hub, a safetensors file is redirected to another place, and other files are sent from where they are.
    The same files lie under /plain/ with a page of links, as a web server has them.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.folder = folder
        self.ranges: list[tuple[str, int, int]] = []  # (file, begin, end) that was asked for
        self.paths: list[str] = []  # of every request
        self.serves_ranges = True
        self.cut_after: int | None = None  # bytes of a body after which a connection breaks
        self.failing = 0  # requests for bytes that are still to be answered with 503

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class FakeHubHandler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Keep the test's output clean."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.paths.append(path)
        if path in {"/api/models/me/small", f"/api/models/me/small/revision/{COMMIT}"} or path.endswith("/revision/v1"):
            self._send(200, json.dumps(self._info()).encode(), "application/json")
        elif path.startswith("/api/models/"):
            code = "RevisionNotFound" if "/revision/" in path else "RepoNotFound"
            self._send(404, b"{}", "application/json", {"X-Error-Code": code, "X-Error-Message": "no such thing"})
        elif path.startswith(f"/me/small/resolve/{COMMIT}/") and path.endswith(".safetensors"):
            self._send(302, b"", "text/plain", {"Location": f"{self.server.url}/cdn/{path.rpartition('/')[2]}"})
        elif path.startswith(f"/me/small/resolve/{COMMIT}/"):
            self._send_file(path.removeprefix(f"/me/small/resolve/{COMMIT}/"))
        elif path.startswith("/cdn/"):
            self._send_file(path.removeprefix("/cdn/"))
        elif path == "/plain":
            self._send(301, b"", "text/plain", {"Location": "/plain/"})
        elif path.startswith("/plain/"):
            self._send_plain(path.removeprefix("/plain/"))
        else:
            self._send(404, b"", "text/plain")

    def _info(self) -> dict[str, object]:
        files = [path for path in self.server.folder.rglob("*") if path.is_file()]
        siblings = [
            {"rfilename": path.relative_to(self.server.folder).as_posix(), "size": path.stat().st_size}
            for path in files
        ]
        return {"id": "me/small", "modelId": "me/small", "sha": COMMIT, "siblings": siblings, "private": False}

    def _send_plain(self, name: str) -> None:
        path = self.server.folder / name
        if path.is_dir():
            links = "".join(f'<a href="{p.name}{"/" if p.is_dir() else ""}">x</a>' for p in path.iterdir())
            self._send(200, f'<html><a href="../">up</a>{links}</html>'.encode(), "text/html")
        else:
            self._send_file(name)

    def _send_file(self, name: str) -> None:
        path = self.server.folder / name
        if not path.is_file():
            self._send(404, b"", "text/plain", {"X-Error-Code": "EntryNotFound"})
        elif self.server.failing:
            self.server.failing -= 1
            self._send(503, b"", "text/plain")
        elif (asked := self.headers.get("Range")) and self.server.serves_ranges:
            data = path.read_bytes()
            begin, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            self.server.ranges.append((name, begin, last + 1))
            where = {"Content-Range": f"bytes {begin}-{last}/{len(data)}"}
            self._send(206, data[begin : last + 1], "application/octet-stream", where)
        else:
            self._send(200, path.read_bytes(), "application/octet-stream")

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Accept-Ranges": "bytes", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cut_after
        if self.command == "HEAD":
            return
        if cut is not None and len(body) > cut and status != 404 and kind == "application/octet-stream":
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        self.wfile.write(body)


@pytest.fixture
def hub(folder: Path) -> Iterator[FakeHub]:
    with FakeHub(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
