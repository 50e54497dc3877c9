"""What transformers itself makes of a checkpoint, and the checkpoint as the span loader wants it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors import safe_open


def read_config(path: Path) -> dict[str, Any]:
    """The checkpoint's config.json."""
    return dict(json.loads((path / "config.json").read_text()))


def lazy_tensors(path: Path) -> dict[str, object]:
    """Checkpoint name -> safetensors slice, of every tensor of every shard."""
    tensors: dict[str, object] = {}
    for shard in sorted(path.glob("*.safetensors")):
        handle: Any = safe_open(shard, framework="pt")
        tensors |= {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118  not a mapping
    return tensors


def load_whole(path: Path, dtype: torch.dtype = torch.float32) -> tf.PreTrainedModel:
    """The checkpoint's causal language model, loaded by transformers."""
    config = tf.AutoConfig.from_pretrained(path)
    model_class = getattr(tf, config.architectures[0])
    model = model_class.from_pretrained(path, dtype=dtype).eval()
    if type(model) is tf.Llama4ForConditionalGeneration:  # its own forward raises in transformers 5.24, even for text
        model = model.language_model
    return model


def generate_greedy(model: tf.PreTrainedModel, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """Greedy, by transformers: the continuation of one prompt; goes on past end-of-sequence."""
    model.generation_config.eos_token_id = None
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        out = model.generate(ids, max_new_tokens=num_tokens, do_sample=False, attention_mask=torch.ones_like(ids))
    return [int(token) for token in out[0, len(prompt) :]]
