"""A checkpoint's sizes: which weights a step reads."""

from pathlib import Path

import pytest
from scripts.benches.bench_model import BenchModel, linear_weights
from scripts.benches.memory import ideal_session_bytes
from scripts.benches.prompts import random_prompts
from torch import nn

from families.checkpoints import NUM_LAYERS, VOCAB_SIZE
from families.fixtures import Checkpoints
from families.reference import load_whole
from osai.core.errors import WeightsError
from osai.core.layers import LayerRange


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # its own LM head, and one tied to the embedding
def test_the_weights_that_a_step_reads_are_those_of_all_linear_layers(checkpoints: Checkpoints, family: str) -> None:
    folder = checkpoints(family)
    linears = [module for module in load_whole(folder).modules() if isinstance(module, nn.Linear)]
    model = BenchModel.read(folder)
    assert sum(model.linear_weights) == sum(linear.weight.numel() for linear in linears)
    assert (model.num_layers, model.vocab_size, model.folder) == (NUM_LAYERS, VOCAB_SIZE, folder)
    assert family in model.title.lower()


def test_only_the_tail_reads_the_lm_head(llama: Path) -> None:
    model = BenchModel.read(llama)
    parts = [model.weights_of(LayerRange(start, start + 2)) for start in (0, 2, 4)]
    assert sum(parts) == sum(model.linear_weights)
    assert parts[2] - parts[1] == model.linear_weights[-1] == VOCAB_SIZE * 64


def test_another_naming_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not know"):
        linear_weights({"transformer.h.0.mlp.weight": (2, 2), "lm_head.weight": (2, 2)}, 1)
    with pytest.raises(WeightsError, match="name its folder"):
        BenchModel.read(tmp_path)


def test_prompts_differ_and_have_no_special_token(llama: Path) -> None:
    model = BenchModel.read(llama)
    prompts = random_prompts(model, 20, 30)
    assert len({tuple(prompt) for prompt in prompts}) == 20
    assert {len(prompt) for prompt in prompts} == {30}
    assert all(3 <= token < VOCAB_SIZE for prompt in prompts for token in prompt)
    assert prompts == random_prompts(model, 20, 30) != random_prompts(model, 20, 30, seed=2)


def test_a_window_bounds_what_a_layer_keeps() -> None:
    config = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64}
    assert ideal_session_bytes(config, 100, 2) == 4 * 100 * (2 * 2 * 8 * 2)
    windowed = config | {"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "sliding_window": 30}
    assert ideal_session_bytes(windowed, 100, 2) == (3 * 30 + 100) * (2 * 2 * 8 * 2)
    assert ideal_session_bytes(windowed, 20, 2) == ideal_session_bytes(config, 20, 2)
