"""Processes of the chaos runs that are forked."""

import subprocess
import sys
from types import SimpleNamespace

from scripts.chaos_runs.forked import Forked


def test_to_kill_a_process_that_has_gone_untold_is_no_error() -> None:
    """`replacement --seed 8016` failed by it: the fork server reaps a process before it tells its status."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    forked = object.__new__(Forked)
    forked.pid, forked._process = process.pid, SimpleNamespace(exitcode=None)  # type: ignore[assignment]
    assert forked.poll() is None
    forked.kill()
