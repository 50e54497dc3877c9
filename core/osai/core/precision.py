"""In what arithmetic a span runs, how the swarm names it, and what a checkpoint's tensor takes in it. Pure.

A name is `bfloat16`, or `bfloat16+int8` where linear weights are held in fewer bits. Spans of one pipeline have equal
names.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, prod
from typing import Literal, TypeAlias, get_args

from osai.core.errors import InvalidRequestError

Quantization: TypeAlias = Literal["none", "int8", "int4", "fp8"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
AUTO = "auto"  # the checkpoint's own dtype, as long as nobody has read it
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

INT4_GROUP = 128  # input features that share a scale and a zero point
_IN_MULTIPLE = {"int8": 16, "fp8": 16, "int4": INT4_GROUP}  # what the kernels read; other weights stay as they are
_OUT_MULTIPLE = {"int8": 16, "fp8": 16, "int4": 8}
_MIN_NUMBERS = 64 * 64  # in a weight; smaller ones stay
_STAYS = re.compile(r"embed|\bwte\b|expert|router|\bgate\.weight|feed_forward\.gate")
_MAX_SHOWN = 40  # characters of a peer's text in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """What a span computes in.

    Attributes:
        dtype: of activations, KV, and weights that are not quantised: one of ITEM_BYTES, or AUTO.
        quantization: of linear weights.
    """

    dtype: str
    quantization: Quantization = "none"

    def __str__(self) -> str:
        return self.dtype if self.quantization == "none" else f"{self.dtype}+{self.quantization}"

    def item_bytes(self, own: int) -> int:
        """Bytes of a number in `dtype`, where the checkpoint's own numbers have `own`."""
        return ITEM_BYTES.get(self.dtype, own)

    def tensor_bytes(self, name: str, shape: Sequence[int], item_bytes: int) -> int:
        """What a checkpoint's tensor takes in memory, from its name and shape alone.

        Rather too much than too little: no name that tells of embeddings, experts or routers is taken as quantised.

        Args:
            name: as the checkpoint names it.
            shape: of the tensor; linear weights are [out_features, in_features].
            item_bytes: of a number in `dtype`; see `item_bytes`.
        """
        count = prod(shape)
        if self.quantization == "none" or not self._is_quantized(name, shape, count):
            return count * item_bytes
        return ceil(count * bytes_per_weight(self.quantization)) + shape[0] * item_bytes  # and scales, one an output

    def _is_quantized(self, name: str, shape: Sequence[int], count: int) -> bool:
        if len(shape) != 2 or count < _MIN_NUMBERS or _STAYS.search(name):  # noqa: PLR2004
            return False
        return shape[0] % _OUT_MULTIPLE[self.quantization] == 0 and shape[1] % _IN_MULTIPLE[self.quantization] == 0


def bytes_per_weight(quantization: Literal["int8", "int4", "fp8"]) -> float:
    """Bytes of one quantised weight; scales are counted where there are many, as int4's are."""
    return 0.5 + 4 / INT4_GROUP if quantization == "int4" else 1.0  # a scale and a zero point in bf16 for each group


@lru_cache(maxsize=64)  # the planner asks for each span of a swarm, of which there are few kinds
def parse_precision(text: str) -> Precision:
    """The precision of that name; `str` is its inverse.

    Raises:
        InvalidRequestError: if there is none; a peer of another release may know more.
    """
    dtype, plus, named = text.partition("+")
    quantization: Quantization = next((known for known in QUANTIZATIONS[1:] if known == named), "none")
    if (dtype != AUTO and dtype not in ITEM_BYTES) or (plus and quantization == "none"):
        raise InvalidRequestError(
            f"precision {text[:_MAX_SHOWN]!r} is not known here; use --dtype {AUTO}, {', '.join(ITEM_BYTES)} with "
            f"--quantize {', '.join(QUANTIZATIONS)}, or a peer of the same release"
        )
    return Precision(dtype=dtype, quantization=quantization)
