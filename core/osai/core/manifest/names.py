"""What the names of tensors and files say: layer, text model or not, needed for serving, pickle."""

import re
from pathlib import PurePosixPath

from osai.core.safetensors_header import MAX_NAME_CHARS

_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_LAYER = re.compile(r"[0-9]{1,4}")  # check.MAX_LAYERS has four digits too
_LAYER_LISTS = frozenset({"layers", "h", "blocks"})  # llama and most, falcon and gpt2, mpt
# Parts of multimodal wrappers that are not the text model, and multi-token prediction, which serving leaves out.
_OTHER_PARTS = re.compile(
    r"(vision|visual|vit$|image|audio|speech|multi_modal|mm_|embed_vision|embed_audio|patch_merger|mtp$|talker|code2wav)"
)
_SERVING_FILES = frozenset(
    {
        *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("vocab.json", "vocab.txt", "merges.txt", "tekken.json", "chat_template.jinja", "chat_template.json"),
        *("tokenizer.model", "tokenizer.model.v3", "spiece.model", "sentencepiece.bpe.model"),
    }
)
TEMPLATES_FOLDER = "additional_chat_templates"
_SERVING_PATTERNS = re.compile(rf"{TEMPLATES_FOLDER}/[^/]+\.jinja|[^/]+\.tiktoken")
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})


def is_plain_name(name: str) -> bool:
    """Whether `name` is a sane id or relative path: letters, digits and `._-`, no empty, `.` or `..` component."""
    plain = len(name) <= MAX_NAME_CHARS and _NAME.fullmatch(name) is not None
    return plain and not any(part.strip(".") == "" for part in name.split("/"))


def layer_of(name: str) -> int | None:
    """The decoder layer of a tensor, 7 of `model.layers.7.mlp.up_proj.weight`; None outside the text model's layers."""
    parts = name.split(".")
    for i in range(len(parts) - 1):
        if _OTHER_PARTS.match(parts[i]):
            return None
        if parts[i] in _LAYER_LISTS and _LAYER.fullmatch(parts[i + 1]):
            return int(parts[i + 1])
    return None


def is_text(name: str) -> bool:
    """Whether a tensor is part of the text model, and not of a vision or audio tower or what joins them to it."""
    return layer_of(name) is not None or not any(_OTHER_PARTS.match(part) for part in name.split("."))


def is_serving_file(path: str) -> bool:
    """Whether serving reads this file beside the weights: config, tokenizer, chat template."""
    return path in _SERVING_FILES or _SERVING_PATTERNS.fullmatch(path) is not None


def is_weight_file(path: str) -> bool:
    """Whether this is a safetensors file."""
    return path.endswith(".safetensors")


def is_pickle(path: str) -> bool:
    """Whether this is, or lists, pickled weights, which can run code when they are read."""
    name = PurePosixPath(path).name
    return PurePosixPath(name).suffix in _PICKLE_SUFFIXES or name.startswith("pytorch_model")
