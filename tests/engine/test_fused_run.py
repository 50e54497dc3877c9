"""Fused layers that follow each other run in one call, and give the numbers they give one by one."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.errors import InternalError
from osai.core.layers import LayerRange
from osai.node.engine.attention import install
from osai.node.engine.block_table import BlockTable
from osai.node.engine.fused import fuse
from osai.node.engine.fused_layer import FusedLayer
from osai.node.engine.kernels.library import HUGE_PAGE, Kernels, load_kernels, on_huge_pages
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_shapes import measure_shapes
from osai.node.engine.layout import Part
from osai.node.engine.packed_step import run_packed_step
from osai.node.engine.span_model import SpanModel, load_span

DTYPES = [torch.float32, torch.bfloat16]


def _load(checkpoints: Checkpoints, family: str, dtype: torch.dtype) -> tuple[SpanModel, list[FusedLayer]]:
    path = checkpoints(family)
    span = load_span(read_config(path), lazy_tensors(path), LayerRange(0, 3), dtype=dtype)
    return span, [layer for layer in span.decoder.layers if isinstance(layer, FusedLayer)]


def _add_one(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    args[0].add_(1.0)


def _steps(span: SpanModel) -> list[torch.Tensor]:
    """A prompt of one session, then rows of two, on a cache of their own."""
    binding = install(span)
    cache = KVCache(measure_shapes(span, binding), 8, 4)
    one, two = BlockTable([5, 1, 2], 4), BlockTable([3, 0], 4)
    steps = [[Part(one, 0, 7)], [Part(one, 7, 1), Part(two, 0, 5)], [Part(two, 5, 1), Part(one, 8, 1)]]
    ids = [torch.arange(3, 3 + sum(part.count for part in parts)) for parts in steps]
    return [run_packed_step(span, binding, cache, parts, i, [0]) for parts, i in zip(steps, ids, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_run_of_layers_is_one_call_with_the_same_numbers(
    family: str, dtype: torch.dtype, checkpoints: Checkpoints
) -> None:
    span, layers = _load(checkpoints, family, dtype)
    assert len(layers) == 3
    with patch.object(Kernels, "layers", autospec=True, side_effect=Kernels.layers) as calls:
        together = _steps(span)
    assert [len(call.args[3]) for call in calls.call_args_list] == [3, 3, 3]
    layers[0].lead(())
    with patch.object(Kernels, "layers", autospec=True, side_effect=Kernels.layers) as calls:
        alone = _steps(span)
    assert [len(call.args[3]) for call in calls.call_args_list] == [1] * 9
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_a_layer_whose_work_was_done_on_other_numbers_says_so(checkpoints: Checkpoints) -> None:
    span, layers = _load(checkpoints, "llama", torch.float32)
    handle = layers[0].register_forward_hook(lambda _module, _args, result: result + 1)
    with pytest.raises(InternalError, match="ahead"):
        _steps(span)
    handle.remove()
    assert all(out.isfinite().all() for out in _steps(span))  # and the next step is whole again


def test_layers_between_which_something_happens_are_not_linked(checkpoints: Checkpoints) -> None:
    """Even where the tensor stays the same one: what is in it has changed."""
    kernels = load_kernels()
    assert kernels is not None
    path = checkpoints("llama")
    span = load_span(read_config(path), lazy_tensors(path), LayerRange(0, 3), dtype=torch.float32, pack=False)
    handle = span.decoder.layers[1].register_forward_pre_hook(_add_one)
    fuse(span, kernels)
    handle.remove()
    assert [layer.num_led for layer in span.decoder.layers] == [0, 1, 0]


@given(st.integers(1, 5 * HUGE_PAGE), st.sampled_from(DTYPES))
def test_room_for_weights_begins_with_a_huge_page_it_can_fill(num_bytes: int, dtype: torch.dtype) -> None:
    count = num_bytes // dtype.itemsize
    room = on_huge_pages(count, dtype)
    assert room.shape == (count,)
    assert room.dtype == dtype
    if count * dtype.itemsize >= HUGE_PAGE:
        assert room.data_ptr() % HUGE_PAGE == 0
        assert room.storage_offset() + count <= room.untyped_storage().nbytes() // dtype.itemsize
