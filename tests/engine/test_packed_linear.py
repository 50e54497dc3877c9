import os
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.falcon.modeling_falcon import FalconLinear

from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.layers import LayerRange
from osai.node.engine import packed_linear, span_model
from osai.node.engine.kernels import library
from osai.node.engine.kernels.build import build, default_folder
from osai.node.engine.kernels.library import Kernels, load_kernels
from osai.node.engine.packed_linear import PackedLinear, pack_linears
from osai.node.engine.span_model import load_span


@pytest.fixture(autouse=True)
def packs_whatever_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "MIN_ELEMENTS", dict.fromkeys(packed_linear.MIN_ELEMENTS, 0))


@pytest.fixture(params=["osai", "osai without AMX"])
def own(request: pytest.FixtureRequest, without_amx: Kernels) -> Kernels:
    """A machine without a compiler or the instructions fails here, and should."""
    found = load_kernels()
    assert found is not None, "the kernels could not be compiled: see the log"
    return found if request.param == "osai" else without_amx


@pytest.fixture(params=["osai", "osai without AMX", "onednn"])
def kernels(request: pytest.FixtureRequest, without_amx: Kernels) -> Kernels | None:
    """Each kind of packing."""
    return {"osai": load_kernels(), "osai without AMX": without_amx, "onednn": None}[request.param]


def test_amx_is_used_where_the_processor_has_it(without_amx: Kernels) -> None:
    found = load_kernels()
    assert found is not None
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    assert found.has_amx == ("amx_bf16" in flags.split() and os.environ.get("OSAI_AMX") != "0")
    assert not without_amx.has_amx


@pytest.mark.parametrize(("value", "left_alone"), [("0", True), ("1", False), ("", False)])
def test_the_environment_can_say_to_leave_amx_alone(
    value: str, left_alone: bool, tmp_path: Path, without_amx: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = load_kernels()
    assert usual is not None
    if not usual.has_amx:
        pytest.skip("this processor has no AMX, or Linux does not give it")
    fresh = shutil.copyfile(build(default_folder()), tmp_path / "kernels.so")  # what is settled is so for a file
    monkeypatch.setattr(library, "build", lambda _: fresh)
    monkeypatch.setenv("OSAI_AMX", value)
    found = load_kernels.__wrapped__()
    assert found is not None
    assert found.has_amx == (not left_alone)
    half, weight = torch.randn(5, 513).bfloat16(), torch.randn(640, 513).bfloat16()
    x, panels = (
        torch.cat((half, -half), 1),
        usual.panels_of(torch.cat((weight, weight), 1)),
    )  # 0 but for the order of sums
    with_amx, without = (kernels.linear(x, panels, None, 640) for kernels in (usual, without_amx))
    assert not torch.equal(with_amx, without), "they add in different orders"
    assert torch.equal(found.linear(x, panels, None, 640), without if left_alone else with_amx)


@pytest.mark.parametrize(("out_features", "in_features"), [(64, 2), (33, 30), (200, 34), (100, 62), (64, 96), (40, 32)])
@pytest.mark.parametrize("num_rows", [1, 2, 15, 16, 17, 31, 32, 33, 70])
def test_whatever_the_sizes_a_product_is_right(
    out_features: int, in_features: int, num_rows: int, own: Kernels
) -> None:
    if not own.can(torch.bfloat16):
        pytest.skip("this processor lacks the instructions: oneDNN does it")
    x, weight = torch.randn(num_rows, in_features).bfloat16(), torch.randn(out_features, in_features).bfloat16()
    bias = torch.randn(out_features).bfloat16()
    got = own.linear(x, own.panels_of(weight), bias, out_features)
    want = functional.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=1e-5 * in_features)
    for begin in {0, num_rows // 2}:
        alone = own.linear(x[begin : begin + 1].contiguous(), own.panels_of(weight), bias, out_features)
        assert torch.equal(alone[0], got[begin])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("num_rows", "in_features"), [(20, 1026), (48, 2082), (300, 2080), (530, 1058)])
def test_a_product_that_is_done_in_pieces_is_right(
    num_rows: int, in_features: int, num_threads: int, own: Kernels
) -> None:
    """AMX takes 1024 inputs, 256 rows and 256 outputs at a time; a thread's share is 5 panels, or 2 and 3."""
    if not own.can(torch.bfloat16):
        pytest.skip("this processor lacks the instructions: oneDNN does it")
    x, weight = torch.randn(num_rows, in_features).bfloat16(), torch.randn(310, in_features).bfloat16()
    bias, panels = torch.randn(310).bfloat16(), own.panels_of(weight)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        got = own.linear(x, panels, bias, 310)
        want = functional.linear(x.double(), weight.double(), bias.double())
        torch.testing.assert_close(got.double(), want, rtol=2**-8, atol=1e-5 * in_features)
        for row in {0, num_rows // 2, num_rows - 1}:
            assert torch.equal(own.linear(x[row : row + 1], panels, bias, 310)[0], got[row])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", [nn.Linear, FalconLinear])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("out_features", [40, 64, 200])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_results_are_those_of_the_plain_layer(
    kind: type[nn.Linear],
    bias: bool,
    out_features: int,
    dtype: torch.dtype,
    tolerance: float,
    kernels: Kernels | None,
) -> None:
    if kernels is None and not packed_linear._onednn_takes(dtype):
        pytest.skip("oneDNN multiplies bfloat16 with AVX-512 only")
    linear = kind(96, out_features, bias=bias).to(dtype)
    weight, offset = linear.weight.detach().clone(), linear.bias
    model = nn.Sequential(linear)
    assert pack_linears(model, kernels) == 1
    assert isinstance(model[0], PackedLinear)
    with torch.inference_mode():
        shapes = ((1, 0, 96), (1, 1, 96), (3, 96), (1, 17, 96), (2, 3, 5, 96))
        for x in (*(torch.randn(shape, dtype=dtype) for shape in shapes), torch.randn(96, 7, dtype=dtype).T):
            want = functional.linear(x, weight, offset)
            got = model(x)
            assert got.shape == want.shape
            assert got.dtype == dtype
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_the_plain_weight_is_freed(kernels: Kernels | None) -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    storage = weakref.ref(next(model.parameters()))
    pack_linears(model, kernels)
    assert storage() is None


def test_layers_with_a_forward_of_their_own_are_left_alone() -> None:
    class Router(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.linear(x, self.weight).softmax(-1)

    model = nn.Sequential(Router(8, 4), nn.Linear(8, 4).double(), nn.Linear(8, 4))
    assert pack_linears(model, None) == 1
    assert type(model[0]) is Router
    assert type(model[1]) is nn.Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_row_has_the_same_result_whatever_is_beside_it(dtype: torch.dtype, num_threads: int, own: Kernels) -> None:
    """To the bit: a session gets the same numbers alone, in a batch, and in a prefill chunk of any size."""
    if not own.can(dtype):
        pytest.skip("this processor lacks the instructions: oneDNN does it")
    x, weight = torch.randn(40, 130, dtype=dtype), torch.randn(70, 130, dtype=dtype)
    panels = own.panels_of(weight)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        alone = torch.cat([own.linear(row[None], panels, None, 70) for row in x])
        for count in (2, 3, 5, 6, 7, 12, 40):
            assert torch.equal(own.linear(x[:count], panels, None, 70), alone[:count])
    finally:
        torch.set_num_threads(before)


def test_small_weights_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 512), nn.Linear(128, 64).bfloat16())
    assert pack_linears(model, None) == 1
    assert isinstance(model[1], PackedLinear)


def test_without_onednn_everything_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = nn.Sequential(nn.Linear(8, 4))
    assert pack_linears(model, None) == 0
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize(("layers", "embedding"), [(LayerRange(0, 6), True), (LayerRange(4, 6), False)])
def test_a_tied_weight_still_embeds(
    layers: LayerRange, embedding: bool, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a tail that embeds nothing has it once."""
    monkeypatch.setattr(span_model, "load_kernels", lambda: None)  # whose panels are filled up: oneDNN adds nothing
    path = checkpoints("gemma2")
    plain, packed = (
        load_span(read_config(path), lazy_tensors(path), layers, dtype=torch.float32, pack=pack)
        for pack in (False, True)
    )
    shared = 384 * 64 * 4
    assert packed.weight_bytes - plain.weight_bytes == (shared if embedding else 0)
    if embedding:
        ids = torch.arange(384)
        assert torch.equal(packed.decoder.embed_tokens(ids), plain.decoder.embed_tokens(ids))
    hidden = torch.randn(1, 3, 64)
    with torch.inference_mode():
        torch.testing.assert_close(packed.model.lm_head(hidden), plain.model.lm_head(hidden))
