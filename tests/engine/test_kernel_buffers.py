"""The kernels touch no memory but that of their buffers."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "guarded_products.py"


@pytest.mark.parametrize("kind", ["amx", "without"])
def test_products_stay_within_their_buffers(kind: str) -> None:
    """In a process of its own, which would die of it."""
    done = subprocess.run([sys.executable, PROGRAM, kind], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "within its buffers\n"), done.stderr[-2000:]
