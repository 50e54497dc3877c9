"""Families that would give wrong tokens in spans are refused when they are loaded."""

import pytest
import torch
import transformers as tf

from families.fixtures import Checkpoints
from families.reference import lazy_tensors, read_config
from osai.core.errors import UnknownModelError
from osai.core.layers import LayerRange
from osai.node.engine.attention import install
from osai.node.engine.hosted_span import HostedSpan
from osai.node.engine.kv_shapes import measure_shapes
from osai.node.engine.span_model import load_span

TINY = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tf.GraniteConfig(**TINY, intermediate_size=16, embedding_multiplier=3.0), "outside its layers"),
        (tf.OPTConfig(**TINY, ffn_dim=16, word_embed_proj_dim=16), "final norm|outside its layers|learned"),
        (tf.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2), "."),
    ],
)
def test_families_that_can_not_be_cut_are_refused(config: tf.PreTrainedConfig, message: str) -> None:
    """A decoder that does something of its own to hidden states would do it again on every node."""
    tensors = tf.AutoModelForCausalLM.from_config(config).state_dict()

    def host() -> None:
        span = load_span(config.to_dict(), tensors, LayerRange(1, 2), dtype=torch.float32)
        HostedSpan.create(span, 1_000_000, 16)

    with pytest.raises(UnknownModelError, match=message):
        host()


def test_attention_past_the_registry_is_noticed(checkpoints: Checkpoints) -> None:
    """It would see the packed row as one session, and give wrong tokens without a word."""
    path = checkpoints("llama")
    span = load_span(read_config(path), lazy_tensors(path), LayerRange(1, 3), dtype=torch.float32)
    binding = install(span)
    attention = span.decoder.layers[1].self_attn
    attention.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)
    with pytest.raises(UnknownModelError, match=r"layers \[2\] attend in a way that is not served"):
        measure_shapes(span, binding)
