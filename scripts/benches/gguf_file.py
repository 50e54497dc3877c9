"""A Llama checkpoint as a GGUF file, for llama.cpp: the same weights, no tokenizer. Prompts are given as token ids.

As llama.cpp's own converter does it: other names, rows of the query and key projections in the order of interleaved
rotary pairs, norms in float32.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

from osai.core.errors import WeightsError

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
KINDS = {"bfloat16": gguf.GGMLQuantizationType.BF16, "float32": gguf.GGMLQuantizationType.F32}
FILE_TYPES = {"bfloat16": gguf.LlamaFileType.MOSTLY_BF16, "float32": gguf.LlamaFileType.ALL_F32}


def write_gguf(folder: Path, file: Path, dtype: str) -> None:
    """Write a checkpoint's weights, matrices in `dtype` (bfloat16 or float32).

    Raises:
        WeightsError: if it is no Llama with plain rotary embeddings, or has tensors that a Llama has not.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    _check(config)
    writer = gguf.GGUFWriter(file, "llama")
    _write_facts(writer, config, dtype)
    for name, tensor in converted(folder, config):
        _add(writer, name, tensor, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def converted(folder: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor under llama.cpp's name, in its order of rows and in the checkpoint's dtype."""
    heads = {"attn_q.weight": config["num_attention_heads"], "attn_k.weight": config["num_key_value_heads"]}
    for shard in sorted(folder.glob("*.safetensors")):
        handle: Any = safe_open(shard, framework="pt")
        for name in handle.keys():  # noqa: SIM118  not a mapping
            new, tensor = llama_cpp_name(name), handle.get_tensor(name)
            num_heads = heads.get(new.split(".", 2)[-1])
            yield new, interleaved(tensor, num_heads) if num_heads else tensor


def llama_cpp_name(name: str) -> str:
    """llama.cpp's name of a tensor.

    Raises:
        WeightsError: if a Llama has no such tensor.
    """
    if name in NAMES:
        return NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    if not layer.isdecimal() or rest not in LAYER_NAMES:
        raise WeightsError(f"{name} is no tensor of a plain Llama: this checkpoint can't be given to llama.cpp")
    return f"blk.{layer}.{LAYER_NAMES[rest]}"


def interleaved(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows [num_heads * head_dim, in_features] from rotary halves (0, d/2, ...) to pairs (0, 1, ...) in each head."""
    halves = weight.view(num_heads, 2, -1, weight.shape[1])  # [heads, 2, head_dim / 2, in_features]
    return halves.transpose(1, 2).reshape(weight.shape)


def _check(config: Mapping[str, Any]) -> None:
    rope = config.get("rope_parameters") or {}
    if config.get("model_type") != "llama" or rope.get("rope_type", "default") != "default":
        raise WeightsError("only a Llama with plain rotary embeddings can be given to llama.cpp here")


def _write_facts(writer: gguf.GGUFWriter, config: Mapping[str, Any], dtype: str) -> None:
    num_heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    rope = config.get("rope_parameters") or {}
    writer.add_name("bench")
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(num_heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def _add(writer: gguf.GGUFWriter, name: str, tensor: torch.Tensor, dtype: str) -> None:
    if tensor.ndim == 1 or dtype == "float32":  # llama.cpp wants norms in float32
        writer.add_tensor(name, tensor.float().numpy())
    else:
        data = tensor.bfloat16().contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=KINDS[dtype])
