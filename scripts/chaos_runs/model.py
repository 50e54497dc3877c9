"""The model of the chaos runs: a tiny Llama in float32, the same on every machine, with a context of 8,192 tokens."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import transformers as tf
from scripts.benches.checkpoint import made_once
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from osai.client.up.checkpoint import open_checkpoint
from osai.core.errors import SetupError
from osai.core.layers import LayerRange
from osai.node.engine.loading import quiet

NAME = "chaos-llama-1"  # the number rises when anything below changes
NUM_LAYERS = 6
VOCAB_SIZE = 384
NUM_SPECIAL = 3  # ids 0, 1, 2
SPANS = (LayerRange(0, 2), LayerRange(2, 4), LayerRange(4, 6))
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosModel:
    """The checkpoint, with the manifest and the key that it was signed with for these runs."""

    model_id: str
    folder: Path
    manifest: Path
    trust: Path


def chaos_model(scratch: Path, folder: Path | None = None) -> ChaosModel:
    """The model, or another unsigned one; manifest and key are written into `scratch`.

    Raises:
        SetupError: if `folder` is signed.
    """
    checkpoint = open_checkpoint(folder or made_once(NAME, _make, lambda _: None), None, scratch)
    if checkpoint.manifest is None:
        raise SetupError(f"{checkpoint.folder} is signed: give an unsigned checkpoint, which is signed for the run")
    return ChaosModel(
        model_id=checkpoint.model_id,
        folder=checkpoint.folder,
        manifest=checkpoint.manifest,
        trust=checkpoint.trust,
    )


def _config() -> tf.LlamaConfig:
    return tf.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=8192,
        initializer_range=0.12,  # large enough that greedy output is not constant
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )


def _make(path: Path) -> None:
    with torch.random.fork_rng(), torch.no_grad(), quiet():
        torch.manual_seed(SEED)
        tf.LlamaForCausalLM(_config()).save_pretrained(path)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>"]
    pairs = [(a, b) for a, b in product(alphabet, alphabet)][: VOCAB_SIZE - len(alphabet) - len(special)]
    words = [*special, *alphabet, *("".join(pair) for pair in pairs)]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    pad, bos, eos = special
    tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos).save_pretrained(
        path
    )
