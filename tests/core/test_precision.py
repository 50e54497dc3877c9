"""Precisions: their names, and what tensors take in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.errors import InvalidRequestError
from osai.core.precision import AUTO, ITEM_BYTES, QUANTIZATIONS, Precision, bytes_per_weight, parse_precision

PRECISIONS = st.builds(
    Precision, dtype=st.sampled_from([AUTO, *ITEM_BYTES]), quantization=st.sampled_from(QUANTIZATIONS)
)


@given(precision=PRECISIONS)
def test_a_name_is_read_as_it_is_written(precision: Precision) -> None:
    assert parse_precision(str(precision)) == precision


def test_names_are_those_that_nodes_announce() -> None:
    assert parse_precision("auto") == Precision(dtype="auto")
    assert parse_precision("bfloat16+int8") == Precision(dtype="bfloat16", quantization="int8")


@pytest.mark.parametrize(
    "text", ["", "+", "+int8", "int8", "bfloat16+", "bfloat16+none", "bfloat16+int3", "bfloat16+int8+int8", "float64"]
)
def test_a_name_that_is_not_known_is_refused_and_shown(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not known here; use --dtype auto, float32") as caught:
        parse_precision(text)
    assert repr(text) in caught.value.message


@given(text=st.text())
def test_any_text_is_a_precision_of_that_name_or_a_short_typed_error(text: str) -> None:
    try:
        read = parse_precision(text)
    except InvalidRequestError as e:
        message = e.message
    else:
        assert str(read) == text
        return
    assert "is not known here" in message
    assert len(message) < 700  # 40 characters of the text, each escaped at worst as \U0010ffff


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("float32", 256 * 128 * 4),
        ("float16", 256 * 128 * 2),
        ("auto", 256 * 128 * 2),
        ("auto+int8", 256 * 128 + 256 * 2),
        ("float32+int8", 256 * 128 + 256 * 4),
        ("bfloat16+fp8", 256 * 128 + 256 * 2),
        ("bfloat16+int4", 256 * 128 * 17 // 32 + 256 * 2),
    ],
)
def test_a_linear_weight_takes_the_bytes_of_its_quantisation_and_its_scales(text: str, expected: int) -> None:
    precision = parse_precision(text)
    item_bytes = precision.item_bytes(own=2)
    assert precision.tensor_bytes("model.layers.0.mlp.up_proj.weight", (256, 128), item_bytes) == expected


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.norm.weight", (8192,)),
        ("model.layers.0.self_attn.q_proj.weight", (32, 64)),  # too small to be worth it
        ("model.layers.0.self_attn.q_proj.weight", (128, 200)),  # no kernel reads rows of that length
        ("model.embed_tokens.weight", (4096, 128)),
        ("transformer.wte.weight", (4096, 128)),
        ("model.layers.0.block_sparse_moe.experts.0.w1.weight", (256, 128)),
        ("model.layers.0.mlp.gate.weight", (256, 128)),
        ("model.layers.0.mlp.router.weight", (256, 128)),
        ("model.layers.0.mlp.experts.gate_up_proj", (8, 256, 128)),
    ],
)
@pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
def test_what_stays_takes_its_full_size(name: str, shape: tuple[int, ...], quantization: str) -> None:
    plain, quantized = parse_precision("bfloat16"), parse_precision(f"bfloat16+{quantization}")
    assert quantized.tensor_bytes(name, shape, 2) == plain.tensor_bytes(name, shape, 2)


@given(
    precision=PRECISIONS,
    name=st.sampled_from(["lm_head.weight", "model.embed_tokens.weight", "model.layers.3.mlp.down_proj.weight"]),
    shape=st.lists(st.integers(0, 4096), max_size=3),
)
def test_no_tensor_takes_less_than_its_weights_or_more_than_before(
    precision: Precision, name: str, shape: list[int]
) -> None:
    item_bytes = precision.item_bytes(own=2)
    count = Precision(dtype="auto").tensor_bytes(name, shape, 1)
    least = (
        item_bytes if precision.quantization == "none" else min(bytes_per_weight(precision.quantization), item_bytes)
    )
    assert count * least <= precision.tensor_bytes(name, shape, item_bytes) <= count * item_bytes
