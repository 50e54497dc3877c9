"""Processes of the chaos runs, and those of them that are forked."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from scripts.chaos_runs.forked import Forked, die_with
from scripts.chaos_runs.swarm import ChaosSwarm, Shape


def test_to_kill_a_process_that_has_gone_untold_is_no_error() -> None:
    """`replacement --seed 8016` failed by it: the fork server reaps a process before it tells its status."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    forked = object.__new__(Forked)
    forked.pid, forked._process = process.pid, SimpleNamespace(exitcode=None)  # type: ignore[assignment]
    assert forked.poll() is None
    forked.kill()


def test_a_member_that_is_killed_while_its_sockets_are_read_owns_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`scripts/bench churn` at 0.01 a stage-step met it: "Bad file descriptor" of a /proc/PID/net/tcp."""
    swarm = ChaosSwarm(Shape(), SimpleNamespace(), Path(), random.Random(0))  # type: ignore[arg-type]
    swarm.nodes = {
        "dying": SimpleNamespace(pid=-1),  # type: ignore[dict-item]
        "there": SimpleNamespace(pid=os.getpid()),  # type: ignore[dict-item]
    }
    process = psutil.Process

    def killed(pid: int) -> psutil.Process:
        if pid == -1:
            raise OSError(9, "Bad file descriptor")
        return process(pid)

    monkeypatch.setattr(psutil, "Process", killed)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert swarm.network.owner_of(server.getsockname()[1]) == "there"
    assert swarm.network.owner_of(1) == ""


def test_a_member_does_not_outlive_the_process_that_has_forked_it() -> None:
    """`timeout` on a bench killed the fork server with it, and left six nodes behind."""
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            if os.fork() == 0:
                die_with(os.getppid())
                os.write(writer, f"{os.getpid()}".encode())
            signal.pause()
        finally:
            os._exit(1)
    child = psutil.Process(int(os.read(reader, 20)))
    os.close(reader)
    os.close(writer)
    assert child.is_running()
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
