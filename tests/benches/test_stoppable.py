"""What a command has started is stopped when it gets SIGTERM, however often."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio
from scripts.benches.stoppable import until_stopped

async def work():
    try:
        print("begun", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaning up", flush=True)
        await asyncio.sleep(0.3)
        print("clean", flush=True)

asyncio.run(until_stopped(work()))
"""


@pytest.mark.parametrize("num_signals", [1, 2])
def test_sigterm_lets_it_clean_up(num_signals: int) -> None:
    """`timeout` sends two; the second one used to leave a swarm of nodes behind."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning up\n"
        for _ in range(num_signals - 1):
            process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "clean\n"
        assert "stopped by a signal" in process.stderr.read()
        assert process.wait(10) == 1
