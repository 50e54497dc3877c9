"""What the swarm needs to know of a model, read from its config.json without any model code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from osai.core.errors import WeightsError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Sizes of a causal language model.

    Attributes:
        architecture: class name that the checkpoint names, for people.
        num_layers: decoder layers.
        hidden_size: width of a hidden state; what an edge carries for each token.
        vocab_size: number of logits.
        max_context: tokens that prompt and generation may have together.
        eos_token_ids: tokens that end a generation.
        max_kv_numbers: numbers that one layer caches of a token, at most (latent KV is smaller).
        dtype: of the weights as published, "" where the config does not say.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_context: int
    eos_token_ids: tuple[int, ...]
    max_kv_numbers: int
    dtype: str

    @classmethod
    def from_config(cls, config: Mapping[str, object], generation: Mapping[str, object] | None = None) -> Self:
        """Read config.json and, where there is one, generation_config.json.

        Multimodal checkpoints keep the text model under `text_config`; old families use other names for the sizes.

        Raises:
            WeightsError: if a size is missing or no positive integer.
        """
        nested = config.get("text_config")
        text: Mapping[str, object] = {**config, **nested} if isinstance(nested, Mapping) else config
        architectures = config.get("architectures")
        num_layers = _size(text, "num_hidden_layers", "n_layer", "num_layers")
        hidden_size = _size(text, "hidden_size", "n_embd", "d_model")
        named = text.get("dtype") or text.get("torch_dtype")
        return cls(
            architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "unknown",
            num_layers=num_layers,
            hidden_size=hidden_size,
            vocab_size=_size(text, "vocab_size"),
            max_context=_size(text, "max_position_embeddings", "n_positions", "max_sequence_length"),
            eos_token_ids=_eos(generation or {}) or _eos(text),
            max_kv_numbers=_max_kv_numbers(text, hidden_size),
            dtype=named if isinstance(named, str) else "",
        )


def _size(config: Mapping[str, object], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if value is not None:
            if isinstance(value, int) and value > 0:
                return value
            raise WeightsError(f"config.json: {name} is {value!r}, not a positive integer")
    raise WeightsError(f"config.json: {names[0]} is missing; is this a causal language model's folder?")


def _max_kv_numbers(config: Mapping[str, object], hidden_size: int) -> int:
    def number(*names: str, default: int) -> int:
        values = (config.get(name) for name in names)
        return next((value for value in values if isinstance(value, int) and value > 0), default)

    num_heads = number("num_attention_heads", "n_head", default=1)
    head_dim = number("head_dim", "v_head_dim", default=hidden_size // num_heads)
    return 2 * head_dim * number("num_key_value_heads", "num_kv_heads", default=num_heads)


def _eos(config: Mapping[str, object]) -> tuple[int, ...]:
    value = config.get("eos_token_id")
    if isinstance(value, int):
        return (value,)
    if isinstance(value, list):
        return tuple(token for token in value if isinstance(token, int))
    return ()
