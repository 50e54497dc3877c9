"""A program that a bench starts: it speaks JSON lines, and every wait for it has a deadline."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from osai.core.errors import DeadlineExceededError, SetupError, UnavailableError

ROOT = Path(__file__).parents[2]
STOP_DEADLINE_S = 20.0  # `osai up` gives its own children 10
TAIL_CHARS = 2000  # of a program's log, in the error that says why it ended
MAX_LINE_BYTES = 2**20


class RunningProcess(Protocol):
    """What a program needs of asyncio.subprocess.Process."""

    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader | None

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs."""

    async def wait(self) -> int:
        """Wait until it has ended; its exit status."""

    def send_signal(self, signal: int) -> None:
        """Send a signal."""

    def kill(self) -> None:
        """SIGKILL."""


class Program:
    """A running program.

    Args:
        name: for messages.
        process: with pipes for standard input and output.
        log: its standard error.
    """

    def __init__(self, name: str, process: RunningProcess, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    async def ask(self, question: dict[str, object], deadline_s: float) -> dict[str, Any]:
        """Write a line, and read the line that answers it; errors as of `answer`."""
        if self._process.stdin is None:
            raise SetupError(f"{self.name} takes no questions")
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        with suppress(ConnectionError):  # it has ended: `answer` says why
            await self._process.stdin.drain()
        return await self.answer(deadline_s)

    async def answer(self, deadline_s: float) -> dict[str, Any]:
        """Its next line.

        Raises:
            DeadlineExceededError: if none comes in time.
            UnavailableError: if it has ended.
            SetupError: if the line is not a JSON object.
        """
        if self._process.stdout is None:
            raise SetupError(f"{self.name} gives no answers")
        try:
            async with asyncio.timeout(deadline_s):
                line = await self._process.stdout.readline()
        except TimeoutError as e:
            said = self._tail()
            raise DeadlineExceededError(f"{self.name} did not answer within {deadline_s:g} s; it said: {said}") from e
        if not line:
            status = await self._process.wait()
            raise UnavailableError(f"{self.name} ended with exit status {status}; it said: {self._tail()}")
        return _object(self.name, line)

    async def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-TAIL_CHARS:].strip() or "nothing"


def _object(name: str, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as e:
        raise SetupError(f"{name} printed {line[:200]!r} where a line of JSON was due") from e
    if not isinstance(found, dict):
        raise SetupError(f"{name} printed {line[:200]!r} where a JSON object was due")
    return found


@asynccontextmanager
async def running(name: str, module: str, *arguments: str, **environment: str) -> AsyncIterator[Program]:
    """Run `python -m MODULE ARGUMENTS` while the block does; it is stopped after it."""
    command: Sequence[str] = (sys.executable, "-m", module, *arguments)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="osai-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": path, **environment},
                limit=MAX_LINE_BYTES,
                start_new_session=True,  # Ctrl-C in a terminal is the bench's alone: it stops what it started
            )
        program = Program(name, process, log)
        try:
            yield program
        finally:
            await program.stop()
