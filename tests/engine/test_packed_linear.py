import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.falcon.modeling_falcon import FalconLinear

from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.layers import LayerRange
from osai.node.engine import packed_linear
from osai.node.engine.packed_linear import PackedLinear, pack_linears
from osai.node.engine.span_model import load_span


@pytest.fixture(autouse=True)
def packs_whatever_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "MIN_ELEMENTS", dict.fromkeys(packed_linear.MIN_ELEMENTS, 0))


@pytest.mark.parametrize("kind", [nn.Linear, FalconLinear])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_results_are_those_of_the_plain_layer(
    kind: type[nn.Linear], bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    linear = kind(96, 40, bias=bias).to(dtype)
    weight, offset = linear.weight.detach().clone(), linear.bias
    model = nn.Sequential(linear)
    assert pack_linears(model) == 1
    assert isinstance(model[0], PackedLinear)
    with torch.inference_mode():
        shapes = ((1, 0, 96), (1, 1, 96), (3, 96), (1, 17, 96), (2, 3, 5, 96))
        for x in (*(torch.randn(shape, dtype=dtype) for shape in shapes), torch.randn(96, 7, dtype=dtype).T):
            want = functional.linear(x, weight, offset)
            got = model(x)
            assert got.shape == want.shape
            assert got.dtype == dtype
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_the_plain_weight_is_freed() -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    storage = weakref.ref(next(model.parameters()))
    pack_linears(model)
    assert storage() is None


def test_layers_with_a_forward_of_their_own_are_left_alone() -> None:
    class Router(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.linear(x, self.weight).softmax(-1)

    model = nn.Sequential(Router(8, 4), nn.Linear(8, 4).double(), nn.Linear(8, 4))
    assert pack_linears(model) == 1
    assert type(model[0]) is Router
    assert type(model[1]) is nn.Linear


def test_small_weights_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 512), nn.Linear(128, 64).bfloat16())
    assert pack_linears(model) == 1
    assert isinstance(model[1], PackedLinear)


def test_without_onednn_everything_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = nn.Sequential(nn.Linear(8, 4))
    assert pack_linears(model) == 0
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize(("layers", "embedding"), [(LayerRange(0, 6), True), (LayerRange(4, 6), False)])
def test_a_tied_weight_still_embeds(layers: LayerRange, embedding: bool, checkpoints: Checkpoints) -> None:
    """And a tail that embeds nothing has it once."""
    path = checkpoints("gemma2")
    plain, packed = (
        load_span(read_config(path), lazy_tensors(path), layers, dtype=torch.bfloat16, pack=pack)
        for pack in (False, True)
    )
    shared = 384 * 64 * 2
    assert packed.weight_bytes - plain.weight_bytes == (shared if embedding else 0)
    if embedding:
        ids = torch.arange(384)
        assert torch.equal(packed.decoder.embed_tokens(ids), plain.decoder.embed_tokens(ids))
    hidden = torch.randn(1, 3, 64).bfloat16()
    with torch.inference_mode():
        torch.testing.assert_close(packed.model.lm_head(hidden), plain.model.lm_head(hidden))
