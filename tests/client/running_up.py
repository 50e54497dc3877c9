"""A running `osai up` whose programs are `fake_programs`, and whether it left any process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FAKES = Path(__file__).with_name("fake_programs.py")
DEADLINE_S = 30


class Run:
    """One `osai up`. `ready_line` is empty if it ended without one."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path, stderr: Path) -> None:
        self.process = process
        self.folder = folder
        self._stderr = stderr

    def ready_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def end(self, number: signal.Signals | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def pids(self) -> list[int]:
        file = self.folder / "pids"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@contextmanager
def running(folder: Path, *arguments: str, spans: str = "0:2,2:4") -> Iterator[Run]:
    stderr = folder / "stderr-of-up"
    with stderr.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(FAKES), "up", str(folder), spans, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    run = Run(process, folder, stderr)
    with process:
        try:
            yield run
        finally:
            process.kill()
    assert_all_end(run)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> bool:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def assert_all_end(run: Run) -> None:
    assert eventually(lambda: not any(alive(pid) for pid in run.pids())), [p for p in run.pids() if alive(p)]
