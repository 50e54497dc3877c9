"""Spans whose linear layers are loaded as int8."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.embedded import model_dir
from osai.core.errors import AssignmentError, WeightsError
from osai.core.layers import LayerRange
from osai.core.precision import Quantization
from osai.node.engine.attention import install
from osai.node.engine.block_table import BlockTable
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_shapes import measure_shapes
from osai.node.engine.layout import Part
from osai.node.engine.packed_step import run_packed_step
from osai.node.engine.quantize_int8 import Int8Linear
from osai.node.engine.quantize_kernel import Int8Kernel
from osai.node.engine.span_model import SpanModel, load_span

TEXT = """ROMEO:
But, soft! what light through yonder window breaks?
It is the east, and Juliet is the sun.
Arise, fair sun, and kill the envious moon,
Who is already sick and pale with grief,
That thou her maid art far more fair than she.

JULIET:
O Romeo, Romeo! wherefore art thou Romeo?
Deny thy father and refuse thy name;
Or, if thou wilt not, be but sworn my love,
And I'll no longer be a Capulet.

KING RICHARD III:
Now is the winter of our discontent
Made glorious summer by this sun of York;
And all the clouds that lour'd upon our house
In the deep bosom of the ocean buried.
"""


def read_text_ids() -> list[int]:
    return list(Tokenizer.from_file(str(model_dir() / "tokenizer.json")).encode(TEXT).ids)


def embedded(quantization: Quantization, layers: LayerRange | None = None) -> SpanModel:
    config, tensors = read_config(model_dir()), lazy_tensors(model_dir())
    return load_span(config, tensors, layers or LayerRange(0, 6), quantization=quantization)


def logits_of(span: SpanModel, ids: list[int]) -> torch.Tensor:
    """float32 [len(ids), vocab_size], of one step over all of them."""
    binding = install(span)
    num_blocks = -(-len(ids) // 16)
    cache = KVCache(measure_shapes(span, binding), num_blocks, 16)
    part = Part(BlockTable(range(num_blocks), 16), 0, len(ids))
    return run_packed_step(span, binding, cache, [part], torch.tensor(ids), range(len(ids))).float()


def test_a_trained_model_stays_as_good() -> None:
    """The perplexity of a text changes by less than 0.5%, a token's distribution by 0.01 nats at most."""
    ids = read_text_ids()
    assert len(ids) > 200
    plain, int8 = logits_of(embedded("none"), ids), logits_of(embedded("int8"), ids)
    want, got = (float(functional.cross_entropy(out[:-1], torch.tensor(ids[1:]))) for out in (plain, int8))
    assert 0 < abs(got - want) < math.log(1.005)
    assert want < math.log(20), "the model has learnt something"
    divergence = functional.kl_div(
        int8.log_softmax(-1), plain.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)  # fmt: skip
    assert float(divergence.mean()) < 0.001
    assert float(divergence.max()) < 0.01
    assert float((plain.argmax(-1) == int8.argmax(-1)).float().mean()) > 0.95


def test_a_quantised_span_takes_half_the_memory() -> None:
    plain, int8 = embedded("none", LayerRange(1, 4)), embedded("int8", LayerRange(1, 4))
    linears = [m for m in int8.model.modules() if isinstance(m, Int8Linear)]
    assert len(linears) == 3 * 7
    assert int8.weight_bytes == pytest.approx(plain.weight_bytes / 2, rel=0.03)
    assert int8.quantization == "int8"


def test_weights_are_quantised_as_they_are_read() -> None:
    """When a tensor is read, those read before it are int8 already: full precision never piles up."""
    tensors = lazy_tensors(model_dir())
    reads: list[tuple[str, int]] = []

    class Watched:
        def __init__(self, name: str, inner: Any) -> None:  # noqa: ANN401
            self.name, self.inner = name, inner

        def __getitem__(self, key: object) -> torch.Tensor:
            reads.append((self.name, sum(layer.weight.numel() for layer in made)))
            tensor: torch.Tensor = self.inner[key]
            return tensor

    made: list[Int8Linear] = []
    original = Int8Linear.quantized.__func__  # type: ignore[attr-defined]

    def quantized(weight: torch.Tensor, bias: nn.Parameter | None, kernel: Int8Kernel | None) -> Int8Linear:
        made.append(original(Int8Linear, weight, bias, kernel))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Int8Linear, "quantized", staticmethod(quantized))
        watched = {name: Watched(name, inner) for name, inner in tensors.items()}
        load_span(read_config(model_dir()), watched, LayerRange(1, 3), quantization="int8")
    linear_reads = [done for name, done in reads if name.endswith("_proj.weight")]
    assert len(linear_reads) == 14
    assert linear_reads == sorted(set(linear_reads)), "each read finds one more layer quantised"


def test_tied_heads_are_quantised_beside_their_embedding() -> None:
    span = embedded("int8")
    assert isinstance(span.model.lm_head, Int8Linear)
    assert isinstance(span.model.get_input_embeddings(), nn.Embedding)
    tail = embedded("int8", LayerRange(5, 6))
    assert isinstance(tail.model.lm_head, Int8Linear)
    assert not isinstance(tail.model.get_input_embeddings(), nn.Embedding)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "llama4_scout", "gpt_oss", "deepseek_v3", "falcon"])
def test_routers_and_experts_stay_as_they_are(family: str, checkpoints: Checkpoints) -> None:
    """Also biases, which are read before or after their weights, come through."""
    path = checkpoints(family)
    spans = [
        load_span(
            read_config(path), lazy_tensors(path), LayerRange(0, 6), dtype=torch.float32, quantization=name, pack=False
        )
        for name in ("none", "int8")
    ]
    plain, int8 = (dict(span.model.named_parameters()) for span in spans)
    assert any(isinstance(module, Int8Linear) for module in spans[1].model.modules())
    assert all(torch.equal(parameter, plain[name]) for name, parameter in int8.items())
    kept = [name for name in int8 if "experts" in name or "router" in name or name.endswith("gate.weight")]
    assert bool(kept) == (family != "falcon")
    want, got = (logits_of(span, [5, 17, 300, 42, 8, 99, 7, 250]) for span in spans)
    close = (got - want).abs().amax(-1) < 0.1 * want.abs().max()  # a token may go to another expert
    assert close.float().mean() >= 0.7


def test_a_span_without_a_layer_to_quantise_is_refused(checkpoints: Checkpoints) -> None:
    """The tiny families' layers of 64 by 32 are below the least size."""
    path = checkpoints("llama")
    config = read_config(path) | {"hidden_size": 24, "intermediate_size": 24, "head_dim": 8, "vocab_size": 40}
    tensors = {name: torch.zeros(_shape(name, config)) for name in lazy_tensors(path)}
    with pytest.raises(AssignmentError, match="--quantize none"):
        load_span(config, tensors, LayerRange(1, 2), quantization="int8")


def _shape(name: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    hidden, heads, kv_heads = 24, config["num_attention_heads"], config["num_key_value_heads"]
    sizes = {"q_proj": (heads * 8, hidden), "o_proj": (hidden, heads * 8), "k_proj": (kv_heads * 8, hidden)}
    sizes |= {"v_proj": sizes["k_proj"], "embed_tokens": (40, hidden), "lm_head": (40, hidden)}
    return (hidden,) if "norm" in name else sizes.get(name.split(".")[-2], (hidden, hidden))


def test_weights_of_another_shape_are_named() -> None:
    tensors = lazy_tensors(model_dir()) | {"model.layers.2.mlp.up_proj.weight": torch.zeros(3, 256)}
    with pytest.raises(WeightsError, match=r"layers.2.mlp.up_proj.weight is \[3, 256\], not \[512, 256\]"):
        load_span(read_config(model_dir()), tensors, LayerRange(2, 4), quantization="int8")


def test_a_missing_weight_is_named() -> None:
    tensors = lazy_tensors(model_dir())
    del tensors["model.layers.2.mlp.up_proj.weight"]
    with pytest.raises(WeightsError, match=r"layers.2.mlp.up_proj.weight is missing"):
        load_span(read_config(model_dir()), tensors, LayerRange(2, 4), quantization="int8")
