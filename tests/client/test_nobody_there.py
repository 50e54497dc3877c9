"""The `osai` command where no coordinator is: one line that says what to do, in good time."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from osai.client.cli import main

DEADLINE_S = 12.0  # a greeting's five seconds, and as much for a machine that is busy
COMMANDS = (["generate", "x"], ["chat"], ["models"], ["status"])


class Page(http.server.BaseHTTPRequestHandler):
    """Says what it does to nobody."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own signature
        """Nothing."""


@contextmanager
def nothing() -> Iterator[str]:
    """A port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def silence() -> Iterator[str]:
    """A port where connections are made, and nothing is ever said: as behind a firewall that drops what comes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def website() -> Iterator[str]:
    """A port that speaks HTTP: the coordinator's page, taken for its other port."""
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def told(*arguments: str) -> str:
    """The one line that a command says before it fails."""
    begun_s = time.monotonic()
    result = CliRunner().invoke(main, arguments, env={"OSAI_COORDINATOR": None}, input="hello\n")
    assert time.monotonic() - begun_s < DEADLINE_S
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_nobody_listens(command: list[str]) -> None:
    with nothing() as address:
        line = told(*command, "--coordinator", address)
    assert line.startswith(f"error: no connection to {address}")
    assert "is the address right, and is it running?" in line
    assert "--coordinator or OSAI_COORDINATOR" in line
    assert "`osai up`" in line


def test_nothing_is_answered() -> None:
    with silence() as address:
        line = told("status", "--coordinator", address)
    assert line.startswith(f"error: {address} did not send a greeting within 5 s: is the address right")


def test_the_port_of_the_page_is_no_coordinators() -> None:
    with website() as address:
        line = told("status", "--coordinator", address)
    assert f"no connection to {address}" in line
    assert "is the address right" in line


def test_an_address_without_a_port_is_refused_at_once() -> None:
    line = told("status", "--coordinator", "swarm.example.org")
    assert "write HOST:PORT, as in 127.0.0.1:7070" in line
