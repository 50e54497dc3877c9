"""One node a state folder: a lock that lasts as long as its process, and who holds it."""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from osai.core.errors import DeadlineExceededError, SetupError, UnavailableError

PID_FILE = "node.pid"
POLL_S = 0.05


@contextlib.contextmanager
def running_here(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the context; the file says which process does.

    A file that a killed node left behind holds no lock, and is taken over.

    Raises:
        SetupError: if another node runs with this folder, or the folder can't be used.
    """
    path = folder / PID_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise SetupError(f"the state folder {folder} can't be used ({e.strerror}); choose another --state") from e
    try:
        if not _lock(descriptor):
            raise SetupError(
                f"a node runs with {folder} already, as process {_pid(descriptor) or 'unknown'}; end it with "
                f"`osai-node leave --state {folder}`, or give this one a --state folder of its own"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # and with it the lock


def leave(folder: Path, timeout_s: float) -> str:
    """Ask the node that runs with a state folder to go, and wait until it has; what happened, in words.

    Raises:
        UnavailableError: if no node runs with it.
        DeadlineExceededError: if it still runs after `timeout_s`.
        SetupError: if the folder can't be read, or the process is somebody else's.
    """
    started_s = time.monotonic()
    path = folder / PID_FILE
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError as e:
        raise UnavailableError(f"no node has run with {folder}; name its folder with --state") from e
    except OSError as e:
        raise SetupError(f"{path} can't be read ({e.strerror})") from e
    try:
        if _lock(descriptor):
            stale = _pid(descriptor)
            raise UnavailableError(f"no node runs with {folder}" + (f"; process {stale} has ended" if stale else ""))
        pid = _pid(descriptor)
        if pid is None:
            raise UnavailableError(f"the node with {folder} is just starting; try again")
        _terminate(pid)
        while not _lock(descriptor):
            if time.monotonic() - started_s > timeout_s:
                raise DeadlineExceededError(
                    f"process {pid} drains since {timeout_s:.0f} s; it ends by itself at its --drain-timeout, or at "
                    "once at a second SIGTERM"
                )
            time.sleep(POLL_S)
    finally:
        os.close(descriptor)
    return f"the node (process {pid}) has left after {time.monotonic() - started_s:.1f} s"


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it has just ended
    except PermissionError as e:
        raise SetupError(f"process {pid} belongs to another user; run this as that one") from e


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None
