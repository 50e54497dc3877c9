"""Layers and text models told from tensors' names, kinds told from files' names."""

import pytest

from osai.core.manifest import is_text, layer_of
from osai.core.manifest.names import is_pickle, is_plain_name, is_serving_file


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.7.mlp.up_proj.weight", 7),
        ("layers.0.attention.wq.weight", 0),
        ("transformer.h.11.self_attention.dense.weight", 11),
        ("h.3.attn.c_attn.weight", 3),
        ("transformer.blocks.5.ffn.up_proj.weight", 5),
        ("language_model.model.layers.2.self_attn.q_proj.weight", 2),
        ("model.language_model.layers.40.input_layernorm.weight", 40),
        ("model.layers.12.block_sparse_moe.experts.3.w1.weight", 12),
        ("model.layers.4.mlp.vision_mlp.up_proj.weight", 4),  # a text layer's own part for image tokens
    ],
)
def test_a_layer_of_the_text_model(name: str, layer: int) -> None:
    assert layer_of(name) == layer
    assert is_text(name)


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.model.layers.0.self_attn.q_proj.weight",
        "model.vision_tower.transformer.layers.3.attention.k_proj.weight",
        "visual.blocks.5.attn.qkv.weight",
        "model.visual.merger.mlp.0.weight",
        "multi_modal_projector.patch_merger.merging_layer.weight",
        "model.audio_tower.layers.1.fc1.weight",
        "model.embed_vision.embedding.weight",
        "mtp.layers.0.mlp.up_proj.weight",
    ],
)
def test_a_tower_or_projector_has_no_layer_and_is_no_text(name: str) -> None:
    assert layer_of(name) is None
    assert not is_text(name)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "transformer.ln_f.bias",
        "language_model.lm_head.weight",
        "model.layers.weight",
        "model.layers.12345.weight",
        "model.layers.²",
    ],
)
def test_the_rest_of_the_text_model_has_no_layer(name: str) -> None:
    assert layer_of(name) is None
    assert is_text(name)


@pytest.mark.parametrize("name", ["a", "org/name", "model-00001-of-00002.safetensors", "a/b/c.json", "..a", "a..b"])
def test_plain_names(name: str) -> None:
    assert is_plain_name(name)


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "..", ".", "../a", "a/../b", "a/./b", "a\\b", "a b", "a\n", "ä", "a\0", "x" * 256]
)
def test_names_that_are_not_plain(name: str) -> None:
    assert not is_plain_name(name)


def test_kinds_of_files() -> None:
    for path in ("config.json", "tokenizer.model", "qwen.tiktoken", "additional_chat_templates/tools.jinja"):
        assert is_serving_file(path)
    for path in ("modeling_x.py", "README.md", "a/config.json", "model.safetensors.index.json", "training_args.bin"):
        assert not is_serving_file(path)
    for path in ("a.bin", "pytorch_model-00001-of-00002.bin", "x.pt", "consolidated.00.pth", "pytorch_model.weights"):
        assert is_pickle(path)
    assert not is_pickle("model.safetensors")
