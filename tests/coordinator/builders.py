"""Nodes, spans, models and tokenizers of the tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RustTokenizer

from osai.coordinator.api import StageView
from osai.coordinator.catalog import ServedModel
from osai.coordinator.swarm import NodeState, SpanState
from osai.coordinator.text import Tokenizer
from osai.core.layers import LayerRange
from osai.core.manifest import DEFAULT_CHUNK_BYTES, FileEntry, Manifest, TensorEntry, num_chunks, parse, unsigned
from osai.core.model import ModelFacts

MODEL = "me/small"
DIGEST = b"d" * 32
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
EOS = SPECIAL_TOKENS.index("</s>")
CORPUS = (
    "The quick brown fox jumps over the lazy dog, and doesn't stop. ",
    "你好,世界。今天天气很好。 你好 世界 こんにちは 안녕하세요 ",
    "naïve café, Ελλάδα, привет мир, \N{GRINNING FACE}\N{ROCKET} ok \N{GRINNING FACE} 1 2 3\n",
    "👩\u200d👩\u200d👧 \N{WAVING WHITE FLAG}\ufe0f",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('roles are user and assistant') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def span(start: int, end: int, **fields: Any) -> SpanState:  # noqa: ANN401 - of any field
    values = {"model_id": MODEL, "manifest_digest": DIGEST, "dtype": "float32", "state": "ready", "verified": True}
    return SpanState(
        layers=LayerRange(start, end), **{**values, "num_free_kv_tokens": 1000, "step_time_s": 0.01, **fields}
    )


def node(name: str, *spans: SpanState, **fields: Any) -> NodeState:  # noqa: ANN401 - of any field
    values = {"name": f"the {name}", "software": "osai/0.1.0", "device": "cpu", "memory_bytes": 10**9}
    more = {"state": "ready", "sequence": 1, "num_sessions": 0, "started_at_s": 50.0, "address": f"{name}:1"}
    more |= {"protocol_version": 2}
    return NodeState(node_id=name, spans=spans, **{**values, **more, **fields})


def stage(name: str, start: int, end: int, address: str = "") -> StageView:
    return StageView(node_id=name, address=address or f"{name}:1", span=LayerRange(start, end))


def model(
    tokenizer: Tokenizer,
    model_id: str = MODEL,
    layer_bytes: Sequence[int] = (100,) * 6,
    **facts: Any,  # noqa: ANN401
) -> ServedModel:
    """A model of float32 layers of so many bytes (multiples of 4), an embedding and a head of 8 bytes each."""
    digest = "ab" * 32
    tensors, at = [], 0
    names = [("model.embed_tokens.weight", 8), *((f"model.layers.{i}.w", n) for i, n in enumerate(layer_bytes))]
    for i, (name, size) in enumerate([*names, ("lm_head.weight", 8)]):
        layer = i - 1 if 0 < i <= len(layer_bytes) else None
        tensors.append(
            TensorEntry(
                name=name,
                file="model.safetensors",
                begin=at,
                end=at + size,
                dtype="F32",
                shape=(size // 4,),
                layer=layer,
                chunks=(digest,) * num_chunks(size, DEFAULT_CHUNK_BYTES),
            )
        )
        at += size
    manifest = Manifest(
        model_id=model_id,
        version=1,
        created_s=1_700_000_000,
        licence="mit",
        files=(FileEntry(path="config.json", size_bytes=2, chunks=(digest,)),),
        tensors=tuple(tensors),
    )
    values = {"architecture": "LlamaForCausalLM", "hidden_size": 4, "vocab_size": 600, "max_context": 64}
    more = {"eos_token_ids": (EOS,), "max_kv_numbers": 0, "dtype": "float32", "num_layers": len(layer_bytes)}
    data = unsigned(manifest)
    return ServedModel(
        manifest=parse(data),
        manifest_file=data,
        signed=True,
        facts=ModelFacts(**{**values, **more, **facts}),
        tokenizer=tokenizer,
        source="",
    )


def train_byte_level(folder: Path, *, chat: bool = True) -> Path:
    """A byte-level BPE tokenizer, as Llama 3, Qwen and GPT have."""
    rust = RustTokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, show_progress=False, special_tokens=SPECIAL_TOKENS
    )
    rust.train_from_iterator(CORPUS * 3, trainer)
    rust.enable_truncation(8)  # published files have such settings; a prompt must not be cut by them
    return _save(rust, folder, chat=chat)


def train_byte_fallback(folder: Path) -> Path:
    """A BPE tokenizer with metaspaces and bytes for unknown characters, as Llama 2, Mistral and Gemma have."""
    rust = RustTokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    rust.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [AddedToken(f"<0x{i:02X}>", special=False) for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False, special_tokens=[*SPECIAL_TOKENS, "<unk>"])
    rust.train_from_iterator(CORPUS[:1] * 3, trainer)
    vocabulary = json.loads(rust.to_str())
    for token in bytes_:
        vocabulary["model"]["vocab"].setdefault(token.content, len(vocabulary["model"]["vocab"]))
    return _save(RustTokenizer.from_str(json.dumps(vocabulary)), folder, chat=False)


def _save(rust: RustTokenizer, folder: Path, *, chat: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rust.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder
