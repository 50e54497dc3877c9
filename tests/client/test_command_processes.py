"""The `osai` command as a process: exit statuses, streaming, Ctrl-C, broken pipes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from client.fake_coordinator import Event, FakeCoordinator, chunk, serving, started
from osai.proto import client_pb2

DEADLINE_S = 20


@contextmanager
def osai(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, "-m", "osai.client", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:  # closes the pipes
        try:
            yield process
        finally:
            process.kill()


def endless(request: client_pb2.GenerateRequest) -> Iterable[Event | float]:
    yield started()
    yield chunk(0, [1], "first")
    yield 60.0


def test_complete_generation_exits_0_and_an_error_1() -> None:
    with serving(FakeCoordinator()) as address, osai("generate", "--coordinator", address, "x") as process:
        stdout, _ = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, stdout) == (0, "All the world's a stage\n")
    with osai("generate", "--coordinator", address, "x") as process:  # nobody listens there any more
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.startswith(f"error: no connection to {address}")
    assert stderr.count("\n") == 1


def test_text_streams_and_ctrl_c_cancels_with_130() -> None:
    fake = FakeCoordinator(endless)
    with serving(fake) as address, osai("generate", "--coordinator", address, "x") as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == "first"  # it is there long before the generation ends
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=DEADLINE_S)
        assert fake.gone.wait(5)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_killed_client_is_noticed() -> None:
    fake = FakeCoordinator(endless)
    with serving(fake) as address, osai("generate", "--coordinator", address, "x") as process:
        assert fake.arrived.wait(DEADLINE_S)
        process.kill()
        process.communicate(timeout=DEADLINE_S)
        assert fake.gone.wait(5)


def test_reader_that_goes_away_ends_it_quietly() -> None:
    going_on = threading.Event()

    def script(request: client_pb2.GenerateRequest) -> Iterable[Event | float]:
        yield from list(endless(request))[:2]
        going_on.wait(DEADLINE_S)
        yield chunk(1, [1], "second")
        yield 60.0

    fake = FakeCoordinator(script)
    with serving(fake) as address, osai("generate", "--coordinator", address, "x") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == "first"
        process.stdout.close()
        going_on.set()
        assert process.wait(DEADLINE_S) == 1
        assert "Traceback" not in process.stderr.read()
        assert fake.gone.wait(5)


def test_chat_survives_ctrl_c_in_an_answer() -> None:
    fake = FakeCoordinator(endless)
    with serving(fake) as address, osai("chat", "--coordinator", address) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("question\n")
        process.stdin.flush()
        assert process.stdout.read(5) == "first"
        process.send_signal(signal.SIGINT)
        assert fake.gone.wait(5)
        stdout, stderr = process.communicate("/exit\n", timeout=DEADLINE_S)
    assert process.returncode == 0, stderr
    assert "[stopped]" in stdout
