"""A coordinator's or a node's process that is killed, stopped, continued and started again; its log is kept."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from scripts.benches.program import MAX_LINE_BYTES, Program
from scripts.chaos_runs.forked import AsyncForked, Forked

from osai.core.errors import UnavailableError

READY_DEADLINE_S = 120.0  # nine processes import torch on two cores
END_DEADLINE_S = 15.0
LEAVE_DEADLINE_S = 45.0  # a node that drains gives sessions 30 s


class Member:
    """One member of a swarm, over all of its incarnations.

    Args:
        name: its log is NAME.log.
        module: that is run.
        arguments: the same each time, so that it comes back under its own id and addresses.
        folder: of the log.
        is_forked: from a process that has imported everything; else it is started afresh, which takes some seconds of a
            core, and all its memory is its own: a forked one's grows for hours as it writes to pages that it shared.

    Attributes:
        more: arguments of later incarnations, besides.
        is_stopped: by SIGSTOP.
        ready: what it printed last when it was.
    """

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], folder: Path, *, is_forked: bool = True
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.more: tuple[str, ...] = ()
        self.is_stopped = False
        self.ready: dict[str, Any] = {}
        self._module, self._arguments, self._is_forked = module, tuple(arguments), is_forked
        self._process: AsyncForked | asyncio.subprocess.Process | None = None
        self._program: Program | None = None

    @property
    def pid(self) -> int:
        """Its process.

        Raises:
            UnavailableError: if none runs.
        """
        if not self.is_alive or self._process is None:
            raise UnavailableError(f"{self.name} does not run")
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether its process is there, stopped or not."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start its process, without waiting for it."""
        arguments = (*self._arguments, *self.more)
        if self._is_forked:
            forked = Forked(self._module, arguments, self.log, os.environ)
            try:
                self._process = await AsyncForked.start(forked, MAX_LINE_BYTES)
            except BaseException:  # cancelled here, nobody else would know of it
                forked.kill()
                raise
        else:
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", self._module, *arguments, stdout=asyncio.subprocess.PIPE, stderr=log,
                    limit=MAX_LINE_BYTES, start_new_session=True,
                )  # fmt: skip
        self._program = Program(self.name, self._process, self.log)

    async def wait_ready(self) -> None:
        """Wait until it says that it serves; errors as of `Program.answer`."""
        if self._program is None:
            raise UnavailableError(f"{self.name} was not started")
        self.ready = await self._program.answer(READY_DEADLINE_S)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; SIGSTOP and SIGCONT are remembered."""
        os.kill(self.pid, number)
        if number in {signal.SIGSTOP, signal.SIGCONT}:
            self.is_stopped = number == signal.SIGSTOP

    async def kill(self) -> None:
        """SIGKILL; the process, and what it had started, have gone when this returns."""
        if self._process is None or not self.is_alive:
            return
        self._process.kill()
        async with asyncio.timeout(END_DEADLINE_S):
            await self._process.wait()
        self.is_stopped = False

    async def gone(self) -> int:
        """Wait until its process has ended by itself; its status.

        Raises:
            TimeoutError: if it does not in time.
        """
        if self._process is None:
            raise UnavailableError(f"{self.name} was not started")
        async with asyncio.timeout(LEAVE_DEADLINE_S):
            return await self._process.wait()

    def mark(self, text: str) -> None:
        """Write a line into its log."""
        with self.log.open("a") as log:
            log.write(f"---- {text}\n")

    async def end(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self.is_alive and self.is_stopped:
            self.send(signal.SIGCONT)
        if self._program is not None:
            with suppress(ProcessLookupError):
                await self._program.stop()

    def usage(self) -> tuple[int, int]:
        """Bytes of memory of its own, and open file descriptors."""
        process = psutil.Process(self.pid)
        return int(process.memory_full_info().uss), int(process.num_fds())
