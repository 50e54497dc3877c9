"""One child process of a local swarm."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from osai.core.errors import SetupError

MAX_READY_LINE_BYTES = 2**20  # a coordinator's DHT addresses take some hundred
TAIL_LINES = 20  # of a log, shown when its process fails: a traceback's end
TAIL_BYTES = 8192


class ChildEndedError(SetupError):
    """A child ended while it was needed. `tail` is the end of its log."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail


class Output:
    """The read end of a child's standard output.

    Not asyncio's own pipe: with that, waiting for a child's end also waits for its children that hold the pipe.
    """

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self.reader = reader
        self._transport = transport

    @classmethod
    async def open(cls) -> tuple[Self, int]:
        """A new pipe; the descriptor is its write end, for the caller to hand over and close."""
        read_end, write_end = os.pipe()
        reader = asyncio.StreamReader(limit=MAX_READY_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
        )
        return cls(reader, transport), write_end

    def close(self) -> None:
        """Read no more."""
        self._transport.close()


class Child:
    """A running program that says one JSON line when it is ready; its log is standard error and later output.

    Args:
        name: for people, as in "node-2".
        process: the program, in a process group of its own.
        stdout: what it prints.
        log_file: where its log goes.
        log: that file, open.
    """

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, stdout: "Output", log_file: Path, log: IO[bytes]
    ) -> None:
        self.name = name
        self.log_file = log_file
        self._process = process
        self._stdout = stdout
        self._log = log
        self._draining: asyncio.Task[None] | None = None
        self._group_ended = False

    @classmethod
    async def start(cls, name: str, command: Sequence[str], log_file: Path, environment: Mapping[str, str]) -> Self:
        """Start a program.

        Raises:
            SetupError: if it can't be started.
        """
        log = _open_log(log_file)
        stdout, write_end = await Output.open()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is `up`'s alone, and the group can be killed whole
            )
        except OSError as e:
            log.close()
            stdout.close()
            raise SetupError(f"can't start {name} ({command[0]}): {e.strerror}") from e
        finally:
            os.close(write_end)
        return cls(name, process, stdout, log_file, log)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def ready_line(self) -> bytes:
        """The JSON line of the program; lines before it go to the log. Waits on if the program ends without one.

        Raises:
            SetupError: if it is too long.
        """
        reader = self._stdout.reader
        try:
            while not (line := await reader.readline()).startswith(b"{"):
                if not line:
                    await asyncio.Event().wait()  # whoever watches the process says why it ended
                self._log.write(line)
        except ValueError as e:
            raise SetupError(f"{self.name} printed a line of over {MAX_READY_LINE_BYTES} bytes") from e
        self._draining = asyncio.create_task(self._drain(reader))
        return line

    async def ended(self) -> int:
        """Wait for the program to end; its exit status, negative for a signal."""
        status = await self._process.wait()
        if not self._group_ended:  # once, and at once: later the id may be another process's
            self._group_ended = True
            self._kill_group()
        return status

    async def failure(self) -> ChildEndedError:
        """Wait for the program to end, and say so as an error."""
        status = await self.ended()
        words = describe_status(status)
        return ChildEndedError(f"{self.name} {words} during the start; its log: {self.log_file}", self.tail())

    def tail(self) -> str:
        """The end of the log."""
        self._log.flush()
        data = self.log_file.read_bytes()[-TAIL_BYTES:]
        return "\n".join(data.decode(errors="replace").splitlines()[-TAIL_LINES:])

    def terminate(self) -> None:
        """Ask the program to end."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End its whole process group at once."""
        if self._process.returncode is None:
            self._kill_group()

    async def close(self) -> None:
        """Clean up after the program has ended."""
        if self._draining is not None:
            self._draining.cancel()
            with suppress(asyncio.CancelledError):
                await self._draining
        self._stdout.close()
        self._log.close()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _drain(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            self._log.write(data)


def describe_status(status: int) -> str:
    """How a process ended, for people."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _open_log(file: Path) -> IO[bytes]:
    try:
        return file.open("ab", buffering=0)
    except OSError as e:
        raise SetupError(f"can't write the log {file}: {e.strerror}") from e
