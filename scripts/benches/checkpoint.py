"""The model that the benches run: a Llama of 251 million random weights, the same on every machine."""

import os
import shutil
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from osai.node.engine.loading import quiet

NAME = "bench-llama-251m-2"  # the number rises when anything below changes
NUM_LAYERS = 16
VOCAB_SIZE = 32000
MAX_POSITIONS = 8192  # a prompt of 4,096 tokens and what is generated beside it
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")  # ids 0, 1, 2
SEED = 0


def cache_folder() -> Path:
    """Where made checkpoints are kept: outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "osai" / "bench"


def bench_checkpoint(tell: Callable[[str], None]) -> Path:
    """The checkpoint's folder; made on the first call, which takes some seconds and 0.5 GB, and says so."""
    return made_once(NAME, _make, tell)


def made_once(name: str, make: Callable[[Path], None], tell: Callable[[str], None]) -> Path:
    """`name` in the cache's folder; `make` writes it on the first call, whole or not at all."""
    cache = cache_folder()
    path = cache / name
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        tell(f"making {path}, once")
        scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
        try:
            make(scratch / name)
            (scratch / name).rename(path)
        except OSError:
            if not path.exists():  # else another bench has made the same meanwhile
                raise
        finally:
            shutil.rmtree(scratch)
    return path


def _config() -> tf.LlamaConfig:
    return tf.LlamaConfig(
        hidden_size=1024,
        num_hidden_layers=NUM_LAYERS,
        intermediate_size=3584,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="bfloat16",
    )


def _make(path: Path) -> None:
    with torch.random.fork_rng(), torch.no_grad(), quiet():
        torch.manual_seed(SEED)
        model = tf.LlamaForCausalLM(_config())
        model.get_input_embeddings().weight.mul_(0.05)  # tied: else each token predicts itself
        model.to(torch.bfloat16).save_pretrained(path, max_shard_size="100MB")
    _make_tokenizer(path)


def _make_tokenizer(path: Path) -> None:
    """Byte-level BPE in which every id is a text: the bytes, then pairs of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a, b in product(alphabet, alphabet)][: VOCAB_SIZE - len(alphabet) - len(SPECIAL_TOKENS)]
    words = [*SPECIAL_TOKENS, *alphabet, *("".join(pair) for pair in pairs)]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    pad, bos, eos = SPECIAL_TOKENS
    tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos).save_pretrained(
        path
    )
