"""Processors with AVX-512 and those with AVX2 give the same float32 to the bit: a swarm has both."""

from pathlib import Path

import pytest
import torch

from families.checkpoints import FAMILIES
from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.layers import LayerRange
from osai.node.engine import kv_cache, span_model
from osai.node.engine.attention import install
from osai.node.engine.block_table import BlockTable
from osai.node.engine.kernels.build import build
from osai.node.engine.kernels.library import Kernels, load_kernels
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_shapes import measure_shapes
from osai.node.engine.layout import Part
from osai.node.engine.packed_step import run_packed_step
from osai.node.engine.span_model import load_span

NUM_PROMPT, NUM_TOKENS = 21, 30


def _has_avx512() -> bool:
    return " avx512bw " in Path("/proc/cpuinfo").read_text()


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """The kernels as a processor without AVX-512 has them; on one of those they are the usual ones."""
    return Kernels(build(tmp_path_factory.mktemp("narrow"), "-mno-avx512f"), amx=False)


def test_every_kernel_is_there_without_avx512(narrow: Kernels) -> None:
    assert narrow.can(torch.float32)
    assert narrow.can(torch.bfloat16)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 6, 7, 13, 31, 40])
@pytest.mark.parametrize(("out_features", "in_features"), [(64, 96), (33, 30), (200, 34), (330, 1026)])
def test_products_are_the_same_to_the_bit(num_rows: int, out_features: int, in_features: int, narrow: Kernels) -> None:
    """And as one sum after the other gives them, in double precision, but for rounding."""
    usual = load_kernels()
    assert usual is not None
    x, weight, bias = (
        torch.randn(shape) for shape in ((num_rows, in_features), (out_features, in_features), out_features)
    )
    found = [each.linear(x, each.panels_of(weight), bias, out_features) for each in (usual, narrow)]
    assert torch.equal(*found)
    want = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(found[1].double(), want, rtol=1e-5, atol=1e-6 * in_features)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 6, 7, 13, 31, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_avx512_a_row_has_the_same_result_whatever_is_beside_it(
    num_rows: int, dtype: torch.dtype, narrow: Kernels
) -> None:
    x, weight = torch.randn(num_rows, 130).to(dtype), torch.randn(70, 130).to(dtype)
    panels = narrow.panels_of(weight)
    alone = torch.cat([narrow.linear(row[None], panels, None, 70) for row in x])
    assert torch.equal(narrow.linear(x, panels, None, 70), alone)


@pytest.mark.parametrize("dim", [6, 16, 40, 64])
def test_rows_are_the_same_to_the_bit(dim: int, narrow: Kernels) -> None:
    usual = load_kernels()
    assert usual is not None
    x, weight = torch.randn(5, 2 * dim) * 20, torch.randn(2 * dim)
    angles = torch.randn(5, dim // 2).repeat(1, 2)
    for way in (
        lambda kernels: kernels.norm(x, weight, 1e-6, 0.5, rounds_first=True),
        lambda kernels: kernels.swiglu(x),
        lambda kernels: _turned(kernels, x, dim, angles),
    ):
        assert torch.equal(way(usual), way(narrow))


def _turned(kernels: Kernels, x: torch.Tensor, dim: int, angles: torch.Tensor) -> torch.Tensor:
    turned = x.clone()
    kernels.rope(turned, 2, dim, angles.cos(), angles.sin())
    return turned


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_same_to_the_bit(
    family: str, checkpoints: Checkpoints, narrow: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention, whole layers and mixtures too, of prompts and of single tokens."""
    if not _has_avx512():
        pytest.skip("there is one kind of vectors on this processor")
    usual = _logits(checkpoints(family))
    for module in (span_model, kv_cache):
        monkeypatch.setattr(module, "load_kernels", lambda: narrow)
    assert torch.equal(_logits(checkpoints(family)), usual)


def _logits(path: Path) -> torch.Tensor:
    """[NUM_TOKENS, vocab_size]."""
    span = load_span(read_config(path), lazy_tensors(path), LayerRange(0, 6), dtype=torch.float32)
    binding = install(span)
    tokens = torch.randint(3, 370, (NUM_TOKENS,), generator=torch.Generator().manual_seed(5))
    cache, table = KVCache(measure_shapes(span, binding), 4, 16), BlockTable(range(4), 16)
    steps = [Part(table, 0, NUM_PROMPT), *(Part(table, position, 1) for position in range(NUM_PROMPT, NUM_TOKENS))]
    return torch.cat([
        run_packed_step(span, binding, cache, [part], tokens[part.position : part.end], list(range(part.count)))
        for part in steps
    ])  # fmt: skip
