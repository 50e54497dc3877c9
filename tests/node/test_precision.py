"""A node and a coordinator count the same bytes of a checkpoint; else spans are placed that do not fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from osai.core.precision import ITEM_BYTES, QUANTIZATIONS, Quantization, parse_precision
from osai.node.engine.quantize import announced_dtype, planned_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SIDES = st.one_of(st.integers(1, 300), st.sampled_from([128, 256, 1024, 4096, 14336]))
NAMES = (
    "lm_head.weight",
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.gate.weight",
    "model.layers.0.mlp.router.weight",
    "model.layers.0.mlp.experts.7.w1.weight",
    "model.layers.0.feed_forward.gate_proj.weight",
)


@given(
    name=st.sampled_from(NAMES),
    shape=st.lists(SIDES, min_size=1, max_size=3),
    quantization=st.sampled_from(QUANTIZATIONS),
    dtype=st.sampled_from(list(DTYPES.values())),
)
def test_both_sides_count_the_same_bytes(
    name: str, shape: list[int], quantization: Quantization, dtype: torch.dtype
) -> None:
    precision = parse_precision(announced_dtype(dtype, quantization))
    assert precision.tensor_bytes(name, shape, precision.item_bytes(own=1)) == planned_bytes(
        name, shape, quantization, dtype
    )


def test_both_sides_know_the_same_dtypes() -> None:
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == ITEM_BYTES


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_what_a_span_announces_can_be_read(quantization: Quantization) -> None:
    assert parse_precision(announced_dtype(torch.bfloat16, quantization)).quantization == quantization
