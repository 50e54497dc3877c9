import pytest
import torch
from torch import nn

from osai.core.errors import SetupError
from osai.core.precision import Quantization, bytes_per_weight
from osai.node.engine.quantize import (
    announced_dtype,
    can_quantize,
    check_quantization,
    planned_bytes,
)


@pytest.mark.parametrize(
    ("wanted", "device", "dtype", "capability", "reason"),
    [
        ("int3", "cpu", torch.bfloat16, None, "use --quantize none, int8, int4, fp8"),
        ("int4", "cpu", torch.bfloat16, None, "needs a GPU"),
        ("fp8", "cpu", torch.bfloat16, None, "needs a GPU"),
        ("int8", "cpu", torch.float16, None, "not float16"),
        ("int4", "cuda", torch.float16, (9, 0), "needs --dtype bfloat16"),
        ("int4", "cuda", torch.bfloat16, (7, 5), "compute capability 8.0"),
        ("fp8", "cuda", torch.bfloat16, (8, 0), "compute capability 8.9"),
    ],
)
def test_what_a_device_can_not_do_is_refused(
    wanted: str, device: str, dtype: torch.dtype, capability: tuple[int, int] | None, reason: str
) -> None:
    with pytest.raises(SetupError, match=reason):
        check_quantization(wanted, device, dtype, capability)


@pytest.mark.parametrize(
    ("wanted", "device", "dtype"),
    [
        ("none", "cpu", torch.float16),
        ("int8", "cpu", torch.float32),
        ("int8", "cuda", torch.float16),
        ("int4", "cuda", torch.bfloat16),
        ("fp8", "cuda", torch.bfloat16),
    ],
)
def test_what_a_device_can_do_is_let_through(wanted: str, device: str, dtype: torch.dtype) -> None:
    assert check_quantization(wanted, device, dtype, (9, 0)) == wanted


def test_names_and_sizes() -> None:
    assert announced_dtype(torch.bfloat16, "none") == "bfloat16"
    assert announced_dtype(torch.float32, "int8") == "float32+int8"
    assert planned_bytes("q_proj.weight", (64, 64), "none", torch.float32) == 4 * 64 * 64
    assert bytes_per_weight("int8") == 1
    assert bytes_per_weight("int4") == pytest.approx(0.53, abs=0.01)


def test_rows_that_torchs_kernel_would_read_past_stay_plain() -> None:
    """In torch 2.13 the int8 kernel of a row of 33 numbers ends the process."""
    assert not can_quantize(nn.Linear(33, 4096, dtype=torch.bfloat16), "int8", torch.bfloat16)
    assert can_quantize(nn.Linear(48, 4096, dtype=torch.bfloat16), "int8", torch.bfloat16)
    assert not can_quantize(nn.Linear(48, 4096, dtype=torch.bfloat16), "int4", torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "shape", "quantization", "want"),
    [
        ("model.layers.0.mlp.up_proj.weight", (512, 256), "none", 2 * 512 * 256),
        ("model.layers.0.mlp.up_proj.weight", (512, 256), "int8", 512 * 256 + 2 * 512),
        ("lm_head.weight", (1024, 256), "int8", 1024 * 256 + 2 * 1024),
        ("model.embed_tokens.weight", (1024, 256), "int8", 2 * 1024 * 256),
        ("model.layers.0.mlp.gate.weight", (64, 256), "int8", 2 * 64 * 256),
        ("model.layers.0.mlp.gate_proj.weight", (64, 256), "int8", 64 * 256 + 2 * 64),
        ("model.layers.0.block_sparse_moe.experts.3.w1.weight", (512, 256), "int8", 2 * 512 * 256),
        ("model.layers.0.feed_forward.router.weight", (64, 256), "int8", 2 * 64 * 256),
        ("model.norm.weight", (4096,), "int8", 2 * 4096),
        ("model.layers.0.mlp.up_proj.weight", (512, 33), "int8", 2 * 512 * 33),
    ],
)
def test_what_a_tensor_will_take_is_told_by_its_name_and_shape(
    name: str, shape: tuple[int, ...], quantization: Quantization, want: int
) -> None:
    assert planned_bytes(name, shape, quantization, torch.bfloat16) == want
