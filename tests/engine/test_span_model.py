from collections.abc import Iterator, Mapping

import pytest
import torch
import transformers as tf

from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.errors import InvalidRequestError, OsaiError, UnknownModelError, WeightsError
from osai.core.layers import LayerRange
from osai.node.engine.span_model import load_span, span_tensor_names
from osai.node.engine.text_model import build


class Counting(Mapping[str, object]):
    """Checkpoint tensors that note which of them were read."""

    def __init__(self, tensors: Mapping[str, object]) -> None:
        self.tensors, self.read = tensors, set[str]()

    def __getitem__(self, name: str) -> object:
        outer = self

        class Lazy:
            def __getitem__(self, key: object) -> torch.Tensor:
                outer.read.add(name)
                tensor: torch.Tensor = outer.tensors[name][key]  # type: ignore[index]
                return tensor

        return Lazy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@pytest.mark.parametrize(
    ("family", "layers", "expected"),
    [
        ("llama", LayerRange(1, 4), {"model.layers.1.", "model.layers.2.", "model.layers.3."}),
        ("llama", LayerRange(0, 1), {"model.layers.0.", "model.embed_tokens."}),
        ("llama", LayerRange(4, 6), {"model.layers.4.", "model.layers.5.", "model.norm.", "lm_head."}),
        ("gemma2", LayerRange(5, 6), {"model.layers.5.", "model.norm.", "model.embed_tokens."}),
        ("llama4_wrapped", LayerRange(1, 2), {"language_model.model.layers.1."}),
        ("falcon", LayerRange(0, 1), {"transformer.h.0.", "transformer.word_embeddings."}),
        ("mixtral", LayerRange(2, 3), {"model.layers.2."}),
    ],
)
def test_only_the_spans_tensors_are_read(
    family: str, layers: LayerRange, expected: set[str], checkpoints: Checkpoints
) -> None:
    """Also those that transformers renames, fuses or ties."""
    path = checkpoints(family)
    config, tensors = read_config(path), Counting(lazy_tensors(path))
    names = span_tensor_names(config, tensors, layers)
    assert not tensors.read
    assert {prefix for name in names for prefix in expected if name.startswith(prefix)} == expected
    assert all(any(name.startswith(prefix) for prefix in expected) for name in names)
    load_span(config, tensors, layers)
    assert tensors.read == set(names)


def test_what_a_span_says_of_itself(checkpoints: Checkpoints) -> None:
    path = checkpoints("llama")
    span = load_span(read_config(path), lazy_tensors(path), LayerRange(4, 6), dtype=torch.bfloat16)
    assert (span.is_head, span.is_tail, span.num_layers) == (False, True, 6)
    assert (span.hidden_size, span.vocab_size, span.dtype) == (64, 384, torch.bfloat16)
    num_weights = 384 * 64 + 64 + 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96 + 2 * 64)
    assert span.weight_bytes == pytest.approx(2 * num_weights, rel=0.01)  # and a few rotary frequencies


def test_loading_is_silent(checkpoints: Checkpoints, capfd: pytest.CaptureFixture[str]) -> None:
    tf.logging.set_verbosity_info()
    tf.logging.enable_progress_bar()
    try:
        path = checkpoints("mixtral")
        load_span(read_config(path), lazy_tensors(path), LayerRange(0, 2))
        assert tf.logging.get_verbosity() == tf.logging.INFO
        assert tf.logging.is_progress_bar_enabled()
    finally:
        tf.logging.set_verbosity_error()
        tf.logging.disable_progress_bar()
    assert capfd.readouterr() == ("", "")


def load_error(path_config: Mapping[str, object], tensors: Mapping[str, object], layers: LayerRange) -> OsaiError:
    with pytest.raises(OsaiError) as caught:
        load_span(path_config, tensors, layers)
    return caught.value


def test_missing_tensors_are_named(checkpoints: Checkpoints) -> None:
    path = checkpoints("llama")
    tensors = lazy_tensors(path)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    load_span(read_config(path), tensors, LayerRange(0, 2))
    error = load_error(read_config(path), tensors, LayerRange(2, 4))
    assert isinstance(error, WeightsError)
    assert "layers.2.mlp.up_proj.weight is missing" in error.message


def test_an_expert_that_is_missing_is_noticed(checkpoints: Checkpoints) -> None:
    path = checkpoints("mixtral")
    tensors = {n: t for n, t in lazy_tensors(path).items() if "layers.1.block_sparse_moe.experts.2.w1" not in n}
    error = load_error(read_config(path), tensors, LayerRange(1, 2))
    assert isinstance(error, WeightsError)
    assert "layers.1" in error.message


def test_tensors_of_another_shape_are_named(checkpoints: Checkpoints) -> None:
    path = checkpoints("llama")
    tensors = lazy_tensors(path) | {"model.layers.2.mlp.up_proj.weight": torch.zeros(3, 64)}
    error = load_error(read_config(path), tensors, LayerRange(2, 4))
    assert isinstance(error, WeightsError)
    assert "layers.2.mlp.up_proj.weight" in error.message
    assert "[3, 64]" in error.message.replace("torch.Size(", "").replace(")", "")


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_an_error_on_reading_comes_through(family: str, checkpoints: Checkpoints) -> None:
    """A tensor that differs from the manifest, or a source that is gone, must not become something else."""

    class Refused:
        def __getitem__(self, key: object) -> torch.Tensor:
            raise WeightsError("digest differs", subject="a.safetensors")

    path = checkpoints(family)
    tensors = lazy_tensors(path)
    name = next(n for n in tensors if "layers.1" in n and ("up_proj" in n or "w1" in n))
    error = load_error(read_config(path), tensors | {name: Refused()}, LayerRange(0, 2))
    assert (type(error), error.message, error.subject) == (WeightsError, "digest differs", "a.safetensors")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model_type": "brand_new"}, UnknownModelError, "'brand_new' is none of transformers' own"),
        ({"model_type": None}, WeightsError, "model_type is missing"),
        ({"model_type": "vit"}, UnknownModelError, "no causal language model"),
        ({"quantization_config": {"quant_method": "fp8"}}, WeightsError, "quantized"),
        ({"num_hidden_layers": "six"}, WeightsError, "can't be read"),
    ],
)
def test_configurations_that_can_not_be_served(
    change: dict[str, object], kind: type[OsaiError], message: str, checkpoints: Checkpoints
) -> None:
    path = checkpoints("llama")
    error = load_error(read_config(path) | change, lazy_tensors(path), LayerRange(0, 2))
    assert type(error) is kind
    assert message in error.message


def test_code_that_comes_with_a_checkpoint_is_never_run(checkpoints: Checkpoints) -> None:
    path = checkpoints("llama")
    config = read_config(path) | {"auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"}}
    span = load_span(config, lazy_tensors(path), LayerRange(0, 2))
    assert type(span.model) is tf.LlamaForCausalLM


def test_layers_past_the_last_are_refused(checkpoints: Checkpoints) -> None:
    path = checkpoints("llama")
    assert isinstance(load_error(read_config(path), lazy_tensors(path), LayerRange(5, 7)), InvalidRequestError)


def test_the_whole_model_is_built_without_memory(checkpoints: Checkpoints) -> None:
    skeleton = build(read_config(checkpoints("llama")), torch.float32)
    assert all(p.is_meta for p in skeleton.model.parameters())
