"""What `osai-node join` refuses before it looks for a coordinator."""

import pytest
import torch
from click.testing import CliRunner

from osai.core.errors import SetupError
from osai.node.cli import main
from osai.node.device import Device, check_dtype

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
