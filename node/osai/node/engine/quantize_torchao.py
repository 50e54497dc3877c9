"""Weight-only quantisation on a GPU, by torchao: its kernels and its tensors, under plain linear layers.

int4 has a kernel that reads the packed weights as they lie, so a step is faster by it. int8 and fp8 weights are made
bf16 before each product: they save memory, not time.
"""

import warnings
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import nn

from osai.core.errors import SetupError
from osai.core.precision import INT4_GROUP, Quantization


def check_torchao(quantization: Quantization, device_type: str) -> None:
    """See that torchao is here, where it is what quantises.

    Raises:
        SetupError: if it is not, or is a version without what is needed.
    """
    if quantization != "none" and device_type == "cuda":
        _config(quantization)


def quantize_in_place(linear: nn.Linear, quantization: Quantization) -> None:
    """Replace a linear layer's weight, where it lies, by torchao's quantised tensor.

    Raises:
        SetupError: if torchao is not here, or can't do it.
    """
    weight = linear.weight
    import_module("torchao.quantization").quantize_(linear, _config(quantization))
    if linear.weight is weight:
        raise SetupError(
            f"torchao left a weight of shape {list(weight.shape)} on {weight.device} unquantised; use --quantize none"
        )


@cache
def _config(quantization: Quantization) -> Any:  # noqa: ANN401  torchao's configurations share no public type
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchao's own imports
            torchao = import_module("torchao.quantization")  # optional, and slow to import
            packing = import_module("torchao.quantization.quantize_.workflows").Int4PackingFormat
    except ImportError as e:
        raise SetupError(f"--quantize {quantization} on a GPU needs torchao: pip install 'osai[cuda]' ({e})") from e
    if quantization == "int8":
        return torchao.Int8WeightOnlyConfig(set_inductor_config=False)
    if quantization == "fp8":
        return torchao.Float8WeightOnlyConfig(weight_dtype=torch.float8_e4m3fn, set_inductor_config=False)
    return torchao.Int4WeightOnlyConfig(
        group_size=INT4_GROUP,
        int4_packing_format=packing.TILE_PACKED_TO_4D,  # the one whose kernel comes with torch
        set_inductor_config=False,
    )
