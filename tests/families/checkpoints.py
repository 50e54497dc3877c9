"""Tiny, deterministic, randomly initialised checkpoints of every model family, in the layout of the Hugging Face hub.

`make("llama", folder)` writes folder/llama/ with config.json, generation_config.json, tokenizer.json and sharded
safetensors, as `save_pretrained` does. Windows and chunks are 16 tokens, so that a prompt of 20 tokens and some tens of
generated ones cross them; weights are large enough that greedy output is not constant.
"""

from pathlib import Path

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from families.family_configs import FAMILIES, NUM_LAYERS, RECIPES, SEEDS, VOCAB_SIZE, WINDOW

__all__ = ["FAMILIES", "NUM_LAYERS", "VOCAB_SIZE", "WINDOW", "make"]


def make(family: str, folder: Path, *, seed: int | None = None, max_shard_size: str = "150KB") -> Path:
    """Write the family's checkpoint to folder/family, and give that path. The same seed gives the same weights."""
    model_class, config = RECIPES[family]()
    with torch.random.fork_rng():
        torch.manual_seed(SEEDS.get(family, 0) if seed is None else seed)
        model = model_class(config).eval()
        _leave_initial_values(model)
    model.generation_config.eos_token_id = 2
    path = folder / family
    model.save_pretrained(path, max_shard_size=max_shard_size)
    _make_tokenizer(path)
    return path


def _leave_initial_values(model: tf.PreTrainedModel) -> None:
    """Move norms, biases and gates away from their trivial initial values."""
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        if model.config.get_text_config().tie_word_embeddings:  # else each token predicts itself
            model.get_input_embeddings().weight.mul_(0.05)


def _make_tokenizer(path: Path) -> None:
    """A byte-level BPE tokenizer trained on a fixed text; any text round-trips, ids stay below VOCAB_SIZE - 4."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = [
        "the quick brown fox jumps over the lazy dog",
        "a peer to peer network of nodes that host layers",
        "how vexingly quick daft zebras jump",
        "pack my box with five dozen liquor jugs",
    ] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 4,
        special_tokens=["<pad>", "<s>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(text, trainer)
    fast = tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    fast.save_pretrained(path)
