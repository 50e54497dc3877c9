"""What `osai-node join` refuses before it looks for a coordinator."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from osai.core.errors import SetupError
from osai.node.cli import main
from osai.node.device import Device, check_dtype
from osai.node.pid_file import PID_FILE, running_here

OLD_GPU = Device(
    spec="cuda:0", description="an old GPU", free_bytes=2**30, capability=(7, 5), has_bfloat16=False
)  # fmt: skip
CPU = Device(spec="cpu", description="a CPU", free_bytes=2**30)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--quantize", "int4"), "use --quantize int8"),
        (("--quantize", "fp8"), "use --quantize int8"),
        (("--quantize", "int8", "--dtype", "float16"), "bfloat16 or float32"),
        (("--quantize", "int3"), "'int3' is not one of"),
        (("--dtype", "float8"), "use --dtype"),
        (("--numa", "99"), "no NUMA node 99"),
    ],
)
def test_refused_at_the_door(args: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT"):  # so that they are undone
        monkeypatch.setenv(name, "1")
    result = CliRunner().invoke(main, ["join", "127.0.0.1:1", "--device", "cpu", *args])
    assert result.exit_code != 0
    assert reason in result.output


def test_a_gpu_without_bfloat16_is_told_what_to_use() -> None:
    with pytest.raises(SetupError, match="an old GPU has no bfloat16; use --dtype float16"):
        check_dtype(torch.bfloat16, OLD_GPU)
    check_dtype(torch.float16, OLD_GPU)
    check_dtype(torch.bfloat16, CPU)


def test_a_cpu_that_is_slow_in_float16_says_so(caplog: pytest.LogCaptureFixture) -> None:
    check_dtype(torch.float16, CPU)
    slow = not torch.ops.mkldnn._is_mkldnn_fp16_supported()
    assert ("prompts take several times longer" in caplog.text) == slow


def test_devices_say_what_they_are() -> None:
    assert (OLD_GPU.type, CPU.type) == ("cuda", "cpu")


HOLDER = """
import signal, sys, time
from pathlib import Path
from osai.node.pid_file import running_here
leaving = []
signal.signal(signal.SIGTERM, lambda *_: leaving.append(1))
with running_here(Path(sys.argv[1])):
    print("here", flush=True)
    while not leaving or sys.argv[2] == "stays":
        time.sleep(0.01)
"""


@contextmanager
def holder(folder: Path, how: str = "goes") -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a state folder as a node does, until SIGTERM."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), how], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        yield process
        process.kill()


def leave(folder: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["leave", "--state", str(folder), *more])
    return result.exit_code, result.output


def test_leave_ends_the_node_of_a_state_folder_and_says_so(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        code, text = leave(tmp_path)
        assert (code, process.wait(5)) == (0, 0)
        assert f"the node (process {process.pid}) has left after 0." in text
    assert leave(tmp_path) == (1, f"error: no node runs with {tmp_path}\n")


def test_leave_does_not_wait_for_ever(tmp_path: Path) -> None:
    with holder(tmp_path, "stays") as process:
        started_s = time.monotonic()
        code, text = leave(tmp_path, "--timeout", "0.2")
        assert code == 1
        assert f"process {process.pid} drains since 0 s" in text
        assert time.monotonic() - started_s < 5


def test_a_killed_node_leaves_a_file_that_is_known_to_be_stale(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(5)
        code, text = leave(tmp_path)
        assert code == 1
        assert f"no node runs with {tmp_path}; process {process.pid} has ended" in text
    with running_here(tmp_path):  # and it bars nobody
        assert (tmp_path / PID_FILE).read_text().strip().isdecimal()


def test_leave_of_a_folder_that_no_node_has_used_says_so(tmp_path: Path) -> None:
    assert leave(tmp_path) == (1, f"error: no node has run with {tmp_path}; name its folder with --state\n")


def test_two_nodes_do_not_share_a_state_folder(tmp_path: Path) -> None:
    """They would have one identity, and each would undo what the other says."""
    with (
        holder(tmp_path) as process,
        pytest.raises(SetupError, match=f"runs with .* already, as process {process.pid}"),
        running_here(tmp_path),
    ):
        pytest.fail("it was let in")
