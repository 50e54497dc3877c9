"""The calls that a GPU's weights are quantised by; torchao's int8 and fp8 run on the CPU too."""

import importlib.util
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from osai.core.errors import SetupError
from osai.core.precision import Quantization
from osai.node.engine import quantize_torchao
from osai.node.engine.quantize import stored_bytes
from osai.node.engine.quantize_torchao import check_torchao, quantize_in_place


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_torchaos_layers_give_what_their_dequantised_weights_give(quantization: Quantization) -> None:
    """The same calls as on a GPU; int4's kernel exists there alone."""
    torch.manual_seed(1)
    linear = nn.Linear(256, 512, dtype=torch.bfloat16)
    plain = linear.weight.detach().clone()
    check_torchao(quantization, "cuda")
    quantize_in_place(linear, quantization)
    assert stored_bytes(linear.weight) == pytest.approx(plain.numel(), rel=0.05)
    x = torch.randn(3, 256, dtype=torch.bfloat16)
    dequantised: torch.Tensor = linear.weight.dequantize()
    step = 1 / 254 if quantization == "int8" else 1 / 16
    assert ((dequantised - plain).float().abs() <= 1.1 * step * plain.float().abs().amax(1, keepdim=True)).all()
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), functional.linear(x, dequantised, linear.bias), rtol=0.02, atol=0.02)


def test_torchao_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quantize_torchao._config.cache_clear()
    for name in ("torchao", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SetupError, match=r"pip install 'osai\[cuda\]'"):
        check_torchao("fp8", "cuda")
    check_torchao("int8", "cpu")
    check_torchao("none", "cuda")
