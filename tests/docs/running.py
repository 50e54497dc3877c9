"""A reader who types a document's commands: in a home of their own, against real members on loopback."""

import json
import re
import select
import shlex
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.chaos_runs.forked import Forked

from docs.blocks import Command, differences

ROOT = Path(__file__).resolve().parents[2]
COMMAND_DEADLINE_S = 120.0  # pip builds a wheel; the cores are shared
READY_DEADLINE_S = 110.0
SERVERS = {("osai-node", "join"): "osai.node", ("osai-coordinator", "serve"): "osai.coordinator"}
OUR_PROGRAMS = ("osai", "osai-node", "osai-coordinator")
LOOPBACK = "127.0.0.1"
_PYTHON = """#!/bin/bash
# pip comes with the packages that Reader gives every environment: half of what making one takes is saved
if [ "$1 $2" = "-m venv" ]; then exec {python} -m venv --without-pip "${{@:3}}"; fi
exec {python} "$@"
"""
_PIP = """#!/bin/bash
exec "$(dirname "$0")/python3" -m pip "$@"
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a coordinator is: HOST:PORT of gRPC, and of HTTP."""

    grpc: str
    http: str


class Server:
    """A coordinator or a node that a command has started, forked; it says a JSON line when it serves."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
        module, self._log, self._name = SERVERS[words[0], words[1]], log, " ".join(words)
        arguments = [str(folder), module, *words[1:], "--json"]
        self.process = Forked("docs.elsewhere", arguments, log, environment)

    def ready(self) -> dict[str, Any]:
        """The JSON line."""
        readable, _, _ = select.select([self.process.stdout], [], [], READY_DEADLINE_S)
        line = self.process.stdout.readline() if readable else b""
        assert line, f"{self._name} did not serve:\n{self._log.read_text(errors='replace')[-3000:]}"
        return dict(json.loads(line))

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait(15.0)
        self.process.stdout.close()


@dataclass(slots=True)
class Reader:
    """Runs the commands of one document.

    Attributes:
        checkout: the folder that is typed in: a copy of the repository.
        home: of the reader.
        public: the swarm that is there already, swarm.example.org.
        own: the coordinator that the document may start, coordinator.example.org.
        told: what placeholders stand for, as the commands have printed it so far.
    """

    checkout: Path
    home: Path
    public: Place
    own: Place
    servers: list[Server] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)

    @classmethod
    def arriving(cls, checkout: Path, home: Path, public: Place) -> "Reader":
        """A reader with an empty home."""
        home.mkdir()
        own = Place(grpc=f"{LOOPBACK}:{free_port()}", http=f"{LOOPBACK}:{free_port()}")
        reader = cls(checkout, home, public, own)
        (home / ".environment").write_text(
            "\n".join(f"export {k}={shlex.quote(v)}" for k, v in reader._first().items())
        )
        return reader

    def run(self, command: Command) -> None:
        """Type a command; what it starts stays.

        Raises:
            AssertionError: if it fails, or prints something else than the document shows.
        """
        text = self._mapped(command.text)
        if command.language == "python":
            text = f"python3 - <<'END'\n{text}END"
        if serving := self._server_words(text):
            self._serve(serving)
            return
        done = self._shell(f"{text}\nexport -p > ~/.environment")
        assert done.returncode == 0, f"{command.where}\n{done.stdout}{done.stderr}"
        self._listen_to(done.stdout)
        self._furnish()
        missing = differences(command.shown, done.stdout + done.stderr)
        assert not missing, f"{command.where}\nshows {missing}, and prints\n{done.stdout}{done.stderr}"

    def leave(self) -> None:
        """Stop what was started."""
        for server in self.servers:
            server.stop()

    def _first(self) -> dict[str, str]:
        programs = self.home / "programs"
        programs.mkdir()
        for name in OUR_PROGRAMS:
            (programs / name).symlink_to(Path(sys.executable).parent / name)
        python = shlex.quote(str(Path(sys._base_executable).resolve()))  # type: ignore[attr-defined]
        (programs / "python3").write_text(_PYTHON.format(python=python))
        (programs / "python3").chmod(0o755)
        pip = {
            "NO_INDEX": "1",
            "NO_DEPS": "1",
            "NO_BUILD_ISOLATION": "0",
            "QUIET": "1",
            "DISABLE_PIP_VERSION_CHECK": "1",
        }
        # loopback and free ports, in place of all interfaces and the usual ones
        join = {"LISTEN": f"{LOOPBACK}:0", "DHT_LISTEN": f"{LOOPBACK}:0", "THREADS": "1", "MEMORY": "256MiB",
                "DEVICE": "cpu"}  # fmt: skip
        serve = {"LISTEN": self.own.grpc, "HTTP_LISTEN": self.own.http, "DHT_LISTEN": f"{LOOPBACK}:0"}
        return {
            "HOME": str(self.home),
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.checkout.parent / "cache"),  # of kernels, compiled once for all
            **{f"PIP_{key}": value for key, value in pip.items()},  # it takes what is needed from here: see _furnish
            **{f"OSAI_NODE_JOIN_{key}": value for key, value in join.items()},
            **{f"OSAI_COORDINATOR_SERVE_{key}": value for key, value in serve.items()},
        }

    def _mapped(self, text: str) -> str:
        for name, place in (("swarm.example.org", self.public), ("coordinator.example.org", self.own)):
            text = text.replace(f"{name}:7070", place.grpc).replace(f"{name}:8080", place.http)
        for host in (LOOPBACK, "localhost"):
            text = text.replace(f"{host}:7070", self.own.grpc).replace(f"{host}:8080", self.own.http)
        for placeholder, value in self.told.items():
            text = text.replace(placeholder, value)
        return text

    def _server_words(self, text: str) -> list[str]:
        """The words of a command that stays, as the reader's shell makes them; empty for one that ends."""
        if tuple(text.split()[:2]) not in SERVERS:
            return []
        done = self._shell(f"command -v {text.split(maxsplit=1)[0]} >&2; printf '%s\\0' {text.rstrip('& ')}")
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        return done.stdout.split("\0")[:-1]

    def _serve(self, words: Sequence[str]) -> None:
        log = self.home / f"server-{len(self.servers)}.log"
        started = self._shell("env -0").stdout.split("\0")
        environment = dict(line.split("=", 1) for line in started if "=" in line)
        state = str(self.home / f"machine-{len(self.servers)}")  # several nodes of one document are several machines
        environment["OSAI_NODE_JOIN_STATE"] = state
        self.servers.append(Server(words, self.checkout, environment, log))
        ready = self.servers[-1].ready()
        if words[1] == "join":
            self.told["NODE_ID"] = ready["id"]
            with (self.home / ".environment").open("a") as file:
                file.write(f"\nexport OSAI_NODE_HEALTH_ADDRESS={ready['edge']} OSAI_NODE_LEAVE_STATE={state}\n")

    def _listen_to(self, printed: str) -> None:
        for placeholder, pattern in (("osai1...", r"osai1\.[\w.-]{40,}"), ("osai_sk_...", r"osai_sk_\w{40,}")):
            if found := re.findall(pattern, printed):
                self.told[placeholder] = found[-1]

    def _furnish(self) -> None:
        """Give virtual environments that a command has made what an index would: all that osai depends on."""
        for config in self.home.glob("*/pyvenv.cfg"):
            (packages,) = config.parent.glob("lib/python*/site-packages")
            (packages / "index.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
            pip = config.parent / "bin" / "pip"
            pip.write_text(_PIP)
            pip.chmod(0o755)

    def _shell(self, text: str) -> "subprocess.CompletedProcess[str]":
        script = f"set -e\nsource {self.home}/.environment\ncd {shlex.quote(str(self.checkout))}\n{text}\n"
        return subprocess.run(
            ["bash", "-c", script], env={"HOME": str(self.home), "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False,
        )  # fmt: skip
