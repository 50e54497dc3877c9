"""Ends a swarm whose `osai up` was killed: a process of its own, run by its path, standard library alone.

It holds the read end of a pipe from `osai up`. When that ends, however it ends, every process that carries the run's
mark in its environment (children, and theirs) is asked to end, then killed.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "OSAI_UP_RUN"  # environment variable that every process of a run inherits
GRACE_S = 5.0  # between asking and killing: a node leaves the swarm in less
KILL_ROUNDS = 20  # one may just have been forked; what outlives two seconds of them is stuck in the kernel
POLL_INTERVAL_S = 0.1  # between looks at whether all have ended


def processes_of(run_id: str) -> tuple[int, ...]:
    """Ids of all processes that carry a run's mark, except this one."""
    mark = f"{MARK}={run_id}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with suppress(OSError):  # it has ended, or is another user's
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return tuple(found)


def send(number: signal.Signals, run_id: str) -> bool:
    """Signal all processes of a run; whether there was one."""
    pids = processes_of(run_id)
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    return bool(pids)


def main(run_id: str) -> None:
    """Wait for `osai up` to end, then end what it left."""
    while sys.stdin.buffer.read(4096):
        pass
    send(signal.SIGTERM, run_id)
    deadline_s = time.monotonic() + GRACE_S
    while processes_of(run_id) and time.monotonic() < deadline_s:
        time.sleep(POLL_INTERVAL_S)
    for _ in range(KILL_ROUNDS):
        if not send(signal.SIGKILL, run_id):
            break
        time.sleep(POLL_INTERVAL_S)


if __name__ == "__main__":
    main(sys.argv[1])
