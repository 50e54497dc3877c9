"""Fused forms take the place of common modules, and of nothing that only looks like them."""

import pytest
import torch
from torch import nn

from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.layers import LayerRange
from osai.node.engine.fused import fuse
from osai.node.engine.fused_parts import FusedAttention, FusedMLP, FusedNorm
from osai.node.engine.kernels.library import Kernels, load_kernels
from osai.node.engine.span_model import SpanModel, load_span


@pytest.fixture
def kernels() -> Kernels:
    found = load_kernels()
    assert found is not None, "the kernels could not be compiled: see the log"
    return found


def _load(checkpoints: Checkpoints, family: str, dtype: torch.dtype) -> SpanModel:
    path = checkpoints(family)
    return load_span(read_config(path), lazy_tensors(path), LayerRange(0, 2), dtype=dtype, pack=False)


def _kinds(span: SpanModel) -> set[str]:
    return {type(module).__name__ for module in span.decoder.modules() if type(module).__name__.startswith("Fused")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("llama", {"FusedNorm", "FusedMLP", "FusedAttention", "FusedLayer"}),
        ("qwen3", {"FusedNorm", "FusedMLP", "FusedAttention", "FusedLayer"}),  # norms queries and keys
        ("qwen2", {"FusedNorm", "FusedMLP", "FusedAttention", "FusedLayer"}),  # has biases
        ("gemma2", {"FusedNorm", "FusedMLP", "FusedAttention"}),  # norms by 1 + weight, caps scores, another activation
        ("mixtral", {"FusedNorm", "FusedAttention"}),
        ("falcon", set()),  # layer norms, and parts by other names
    ],
)
def test_common_forms_are_found(
    family: str, kinds: set[str], dtype: torch.dtype, checkpoints: Checkpoints, kernels: Kernels
) -> None:
    span = _load(checkpoints, family, dtype)
    assert (fuse(span, kernels) > 0) == bool(kinds)
    assert _kinds(span) == kinds


def test_what_computes_something_else_is_left_alone(checkpoints: Checkpoints, kernels: Kernels) -> None:
    """A norm that clamps, an MLP that adds, attention that scales its output: the parts are the same, the sums not."""
    span = _load(checkpoints, "llama", torch.float32)
    layer = span.decoder.layers[0]
    plain = {"norm": layer.input_layernorm.forward, "mlp": layer.mlp.forward, "attn": layer.self_attn.forward}
    layer.input_layernorm.forward = lambda x: plain["norm"](x).clamp(-0.5, 0.5)
    layer.mlp.forward = lambda x: plain["mlp"](x) + 0.01
    layer.self_attn.forward = lambda *args, **kwargs: (plain["attn"](*args, **kwargs)[0] * 1.01, None)
    fuse(span, kernels)
    assert not isinstance(layer.input_layernorm, FusedNorm)
    assert not isinstance(layer.mlp, FusedMLP)
    assert not isinstance(layer.self_attn, FusedAttention)
    assert isinstance(span.decoder.layers[1].self_attn, FusedAttention)


def test_weights_are_not_kept_twice(checkpoints: Checkpoints, kernels: Kernels) -> None:
    span = _load(checkpoints, "llama", torch.float32)
    before = span.weight_bytes
    fuse(span, kernels)
    assert not any(isinstance(module, nn.Linear) and name.endswith(("q_proj", "gate_proj"))
                   for name, module in span.decoder.named_modules())  # fmt: skip
    assert before <= span.weight_bytes <= before * 1.2  # panels of narrow layers are filled up


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_kernels_are_those_of_torch(dtype: torch.dtype, kernels: Kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3 * 48, generator=generator).to(dtype)
    rtol, atol = (1e-5, 1e-6) if dtype == torch.float32 else (2**-6, 2**-7)
    gate, up = (x[:, :144].float() * 20).chunk(2, dim=-1)
    want = (nn.functional.silu(gate).to(dtype) * up.to(dtype)).to(dtype)
    torch.testing.assert_close(kernels.swiglu((x * 20).to(dtype).contiguous()), want, rtol=rtol, atol=atol)

    weight = torch.randn(144, generator=generator).to(dtype)
    normed = nn.functional.rms_norm(x.float(), (144,), eps=1e-5)
    for offset in (0.0, 1.0):
        got = kernels.norm(x, weight, 1e-5, offset, rounds_first=False)
        torch.testing.assert_close(got, (normed * (weight.float() + offset)).to(dtype), rtol=rtol, atol=atol)

    angles = torch.randn(5, 20, generator=generator)
    cos, sin = (torch.cat([part, part], dim=-1).to(dtype) for part in (angles.cos(), angles.sin()))
    heads = x.view(5, 3, 48).clone()
    low, high, rest = heads[:, :2, :20], heads[:, :2, 20:40], heads[:, :2, 40:]
    c, s = cos[:, None, :20], sin[:, None, :20]
    want = torch.cat([low * c - high * s, high * c + low * s, rest], dim=-1)
    kernels.rope(x, 2, 48, cos.contiguous(), sin.contiguous())
    torch.testing.assert_close(x.view(5, 3, 48)[:, :2], want, rtol=rtol, atol=atol)
    assert torch.equal(x.view(5, 3, 48)[:, 2], heads[:, 2])
