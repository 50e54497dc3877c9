"""A program on a pseudo-terminal: what is typed, and what the screen shows."""

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fcntl import ioctl

DEADLINE_S = 20.0
# the child makes the terminal its own, so that Ctrl-C there is a signal here
OWN_IT = "import fcntl, runpy, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); sys.argv[:1] = []; "
RUN = OWN_IT + "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[78=>()][B0]?|\][^\x07]*\x07)|\r")
EDITING = "\x1b[?2004h"
CTRL_C, CTRL_D, ENTER, ALT_ENTER, UP, TAB = "\x03", "\x04", "\r", "\x1b\r", "\x1b[A", "\t"


class Terminal:
    """The person's side.

    Attributes:
        raw: all that came, with control sequences.
    """

    def __init__(self, descriptor: int, process: "subprocess.Popen[bytes]") -> None:
        self.raw = ""
        self.process = process
        self._descriptor = descriptor
        self._seen = 0
        self._num_prompts = 0

    @property
    def shown(self) -> str:
        """All that came, as text alone."""
        return CONTROL.sub("", self.raw)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._descriptor, keys.encode())

    def wait(self, text: str) -> str:
        """Wait until `text` comes after what was waited for last; what came before it since then."""
        deadline_s = time.monotonic() + DEADLINE_S
        while (at := self.shown.find(text, self._seen)) < 0:
            if time.monotonic() > deadline_s or not self._read(deadline_s):
                raise AssertionError(f"{text!r} never came; the screen: {self.shown!r}")
        before, self._seen = self.shown[self._seen : at], at + len(text)
        return before

    def prompt(self) -> None:
        """Wait until another line is asked for: the editor says then that it takes pasted text."""
        self._num_prompts += 1
        deadline_s = time.monotonic() + DEADLINE_S
        while self.raw.count(EDITING) < self._num_prompts:
            if not self._read(deadline_s):
                raise AssertionError(f"no line was asked for; the screen: {self.shown!r}")

    def ended(self) -> int:
        """Wait for the program's end; its exit status."""
        deadline_s = time.monotonic() + DEADLINE_S
        while self._read(deadline_s):
            pass
        return self.process.wait(DEADLINE_S)

    def _read(self, deadline_s: float) -> bool:
        if not select.select([self._descriptor], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # the program has closed its side
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


@contextmanager
def on_terminal(
    module: str, *arguments: str, environment: Mapping[str, str], num_columns: int = 100
) -> Iterator[Terminal]:
    """Run a module on a terminal; it is ended when the block is left."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, num_columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, module, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={
            **{key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES"}},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TERM": "xterm-256color",
            "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody here says where the cursor is
            **environment,
        },
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        os.close(ours)
