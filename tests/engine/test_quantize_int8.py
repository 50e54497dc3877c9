"""Layers of int8 weights on the CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from osai.node.engine import quantize_kernel
from osai.node.engine.quantize_int8 import Int8Linear, quantize_rows
from osai.node.engine.quantize_kernel import Int8Kernel, load_int8_kernel

BF16_STEP = 2**-8 * 1.01  # of a result rounded to bfloat16: half the distance to the next number, relative


@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.bfloat16, torch.float32]))
@settings(max_examples=20)
def test_weights_are_off_by_half_a_scale_at_most(seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(24, 64, generator=generator) * 10 ** torch.randn(24, 1, generator=generator)).to(dtype)
    weight[3] = 0
    quantized, scales = quantize_rows(weight)
    assert (quantized.dtype, scales.dtype) == (torch.int8, dtype)
    assert int(quantized.abs().max()) <= 127
    error = (quantized.double() * scales.double()[:, None] - weight.double()).abs()
    assert (error <= 0.501 * scales.double()[:, None]).all()
    assert (quantized[3] == 0).all()


@pytest.fixture(params=["osai", "osai without AMX", "torch"])
def kernel(request: pytest.FixtureRequest, int8_without_amx: Int8Kernel | None) -> Int8Kernel | None:
    """Each way to multiply."""
    return {"osai": load_int8_kernel(), "osai without AMX": int8_without_amx, "torch": None}[request.param]


@pytest.mark.parametrize("num_rows", [0, 1, 2, 3, 4, 5, 8, 9, 13, 17, 40])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("out_features", [4096, 200])
def test_a_layer_gives_what_its_dequantised_weights_give(
    num_rows: int, dtype: torch.dtype, kernel: Int8Kernel | None, out_features: int
) -> None:
    """By osai's kernel, by torch's and by blocks: off by rounding alone, three times in bfloat16."""
    torch.manual_seed(1)
    weight, bias = torch.randn(out_features, 528).to(dtype) * 0.02, nn.Parameter(torch.randn(out_features).to(dtype))
    layer = Int8Linear.quantized(weight, bias, kernel)
    quantized, scales = quantize_rows(weight)
    x = torch.randn(2, num_rows * 2, 528).to(dtype)[:1, ::2]  # not contiguous
    with torch.inference_mode():
        got = layer(x)
        product = functional.linear(x.double(), quantized.double() * scales.double()[:, None])
        want = product + bias.double()
    assert got.shape == (1, num_rows, out_features)
    assert got.dtype == dtype
    summed = 1e-6 * (functional.linear(x.double().abs(), weight.double().abs()) + bias.double().abs())
    rounded = BF16_STEP * (2 * product.abs() + want.abs()) if dtype == torch.bfloat16 else 0.0
    assert ((got.double() - want).abs() <= rounded + summed).all()


@pytest.mark.parametrize("in_features", [530, 2082])  # AMX takes 1024 of them at a time, and 256 rows
@pytest.mark.parametrize("kernel", ["osai", "osai without AMX"], indirect=True)
def test_the_kernel_gives_a_row_the_same_numbers_in_any_batch_and_number_of_threads(
    kernel: Int8Kernel | None, in_features: int
) -> None:
    if kernel is None:
        pytest.skip("no compiler, or a processor without AVX-512 bf16 and VBMI")
    torch.manual_seed(1)
    layer = Int8Linear.quantized(torch.randn(1000, in_features).bfloat16(), None, kernel)
    x = torch.randn(300, in_features).bfloat16()
    before = torch.get_num_threads()
    with torch.inference_mode():
        want = layer(x)
        for count in (1, 3, 4, 5, 16, 17, 33, 270):
            assert torch.equal(layer(x[:count]), want[:count])
        torch.set_num_threads(2)
        try:
            assert torch.equal(layer(x), want)
            assert torch.equal(layer(x[:2]), want[:2])
        finally:
            torch.set_num_threads(before)


def test_no_kernel_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    load_int8_kernel.cache_clear()
    monkeypatch.setattr(quantize_kernel, "load_kernels", lambda: None)
    assert load_int8_kernel() is None
    load_int8_kernel.cache_clear()
