"""A small checkpoint's folder and manifest."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from osai.core.identity import Identity
from osai.core.manifest import FileEntry, Manifest, TensorEntry


@pytest.fixture
def key() -> Identity:
    return Identity.generate()


@pytest.fixture
def manifest() -> Manifest:
    """Two layers and an embedding in two files."""
    digest = "ab" * 32

    def tensor(name: str, file: str, begin: int, layer: int | None) -> TensorEntry:
        return TensorEntry(
            name=name, file=file, begin=begin, end=begin + 48, dtype="BF16", shape=(4, 6), layer=layer, chunks=(digest,)
        )

    return Manifest(
        model_id="me/small",
        version=3,
        created_s=1_700_000_000,
        licence="apache-2.0",
        files=(
            FileEntry(path="config.json", size_bytes=12, chunks=(digest,)),
            FileEntry(path="tokenizer.json", size_bytes=34, chunks=(digest,)),
        ),
        tensors=(
            tensor("model.embed_tokens.weight", "model-00001-of-00002.safetensors", 100, None),
            tensor("model.layers.0.mlp.up_proj.weight", "model-00001-of-00002.safetensors", 148, 0),
            tensor("model.layers.1.mlp.up_proj.weight", "model-00002-of-00002.safetensors", 100, 1),
        ),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two shards, with an index, config, tokenizer, chat template and model card."""
    path = tmp_path / "small"
    path.mkdir()
    shards: dict[str, dict[str, torch.Tensor]] = {
        "model-00001-of-00002.safetensors": {
            "model.embed_tokens.weight": torch.arange(64, dtype=torch.float32).reshape(16, 4),
            "model.layers.0.mlp.up_proj.weight": torch.ones(4, 4, dtype=torch.bfloat16),
            "model.layers.0.empty": torch.zeros(0, 4),
        },
        "model-00002-of-00002.safetensors": {
            "model.layers.1.mlp.up_proj.weight": torch.full((4, 4), 2.0, dtype=torch.bfloat16),
            "model.norm.weight": torch.ones(4),
        },
    }
    for shard, tensors in shards.items():
        save_file(tensors, path / shard)
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (path / "config.json").write_text('{"num_hidden_layers": 2}')
    (path / "tokenizer.json").write_text("{}")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Small\nlicense: gpl\n")
    return path
