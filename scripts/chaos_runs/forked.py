"""`python -m MODULE`, forked from a process that has imported everything already.

A node takes some nine seconds of a core to import torch and transformers, and a campaign starts thousands of nodes.
What runs is the same: a process of its own, in a session of its own, with its own sockets, files and signals.
"""

import asyncio
import ctypes
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIG_DFL, SIGKILL, SIGTERM, signal
from typing import Self

PR_SET_PDEATHSIG = 1
PRELOADED = ("scripts.chaos_runs.preload",)


class Forked:
    """A process as of subprocess.Popen, forked. Made from one thread at a time.

    Args:
        module: that is run.
        arguments: of its command line.
        log: what it writes to standard error is added there.
        environment: is added to that of the imports.

    Attributes:
        stdout: what it prints.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(list(PRELOADED))
        reader, writer = server.Pipe(duplex=False)
        with reader, writer:
            self.stdout = os.fdopen(os.dup(reader.fileno()), "rb")
            target = (module, tuple(arguments), log, dict(environment), writer)
            self._process = server.Process(target=_run, args=target, daemon=True)  # daemon: ends with this process
            self._process.start()
        if self._process.pid is None:
            raise OSError(f"{module} was not forked")
        self.pid = self._process.pid

    @property
    def sentinel(self) -> int:
        """A file descriptor that can be read once the process has ended."""
        return self._process.sentinel

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: if it has not ended after `timeout` seconds.
        """
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and the server has not told its status yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(SIGKILL)


class AsyncForked:
    """A forked process as of asyncio.subprocess.Process."""

    stdin: asyncio.StreamWriter | None = None

    def __init__(self, forked: Forked, stdout: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        self.stdout: asyncio.StreamReader | None = stdout
        self._forked, self._ended = forked, loop.create_future()
        loop.add_reader(forked.sentinel, self._end)

    @classmethod
    async def start(cls, forked: Forked, max_line_bytes: int) -> Self:
        """Read what a process prints."""
        stdout, loop = asyncio.StreamReader(limit=max_line_bytes), asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), forked.stdout)
        return cls(forked, stdout)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._forked.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._forked.poll()

    async def wait(self) -> int:
        """Wait until it has ended; its exit status."""
        await asyncio.shield(self._ended)
        return self._forked.wait(0)

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        self._forked.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        self._forked.kill()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._forked.sentinel)
        if not self._ended.done():
            self._ended.set_result(None)


def die_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends (prctl(2), PR_SET_PDEATHSIG).

    A fork server that is killed tells nobody what it has forked: the swarm would stay for good.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), SIGKILL)


def _run(
    module: str, arguments: tuple[str, ...], log: Path, environment: Mapping[str, str], stdout: Connection
) -> None:
    """In the new process: what exec would do."""
    if missing := [name for name in PRELOADED if name not in sys.modules]:
        raise ImportError(f"the fork server could not import {', '.join(missing)}: start in the repository's root")
    os.setsid()
    signal(SIGTERM, SIG_DFL)  # the fork server ignores it, see `preload`
    die_with(os.getppid())
    with log.open("ab") as stderr, stdout:
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
