"""A checkpoint as the benches see it: how many layers, how many weights a step reads."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

from safetensors import safe_open
from scripts.benches.checkpoint import bench_checkpoint

from osai.core.errors import WeightsError
from osai.core.layers import LayerRange

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchModel:
    """What the benches need to know of a checkpoint.

    Attributes:
        title: for people, as in "Llama of 251M weights".
        linear_weights: weights of the linear layers that a whole step reads, by layer; the LM head is the last. A tied
            embedding counts once, as the LM head: the look-up in it reads one row.
    """

    folder: Path
    title: str
    num_layers: int
    vocab_size: int
    linear_weights: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a checkpoint's sizes; its tensors stay unread.

        Raises:
            WeightsError: if the folder is no checkpoint of decoder layers.
        """
        try:
            config: dict[str, Any] = json.loads((folder / "config.json").read_text())
            num_layers, vocab_size = int(config["num_hidden_layers"]), int(config["vocab_size"])
            kind = str(config["model_type"]).capitalize()
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise WeightsError(f"{folder} is no model that can be measured ({e!r}): name its folder") from e
        shapes = _shapes(folder)
        num_weights = sum(prod(shape) for shape in shapes.values())
        return cls(
            folder=folder,
            title=f"{kind} of {_short(num_weights)} weights",
            num_layers=num_layers,
            vocab_size=vocab_size,
            linear_weights=linear_weights(shapes, num_layers),
        )

    def weights_of(self, layers: LayerRange) -> int:
        """Linear weights that a step of a span reads; the tail's LM head is one of them."""
        end = layers.end + (1 if layers.end == self.num_layers else 0)
        return sum(self.linear_weights[layers.start : end])


def bench_model(folder: Path | None, tell: Callable[[str], None]) -> BenchModel:
    """The checkpoint in `folder`, or the benches' own."""
    return BenchModel.read(folder or bench_checkpoint(tell))


def linear_weights(shapes: Mapping[str, Shape], num_layers: int) -> tuple[int, ...]:
    """Weights of the linear layers, by decoder layer, then those of the LM head.

    Args:
        shapes: of a checkpoint's tensors, by name, in transformers' naming of Llama and its like.
        num_layers: decoder layers.

    Raises:
        WeightsError: if a layer or the LM head has none.
    """
    by_layer = [
        sum(prod(s) for name, s in shapes.items() if f".layers.{i}." in name and len(s) == 2) for i in range(num_layers)
    ]
    heads = [name for name in ("lm_head.weight", "model.embed_tokens.weight") if name in shapes]
    found = (*by_layer, prod(shapes[heads[0]]) if heads else 0)
    if not all(found):
        raise WeightsError("the checkpoint names its linear layers in a way that the bench does not know")
    return found


def _shapes(folder: Path) -> Mapping[str, Shape]:
    shapes: dict[str, Shape] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        handle: Any = safe_open(shard, framework="pt")
        shapes |= {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    return shapes


def _short(count: int) -> str:
    return f"{count / 1e6:.0f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"
