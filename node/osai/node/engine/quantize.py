"""Weight-only quantisation: linear weights in fewer bits, activations and KV as ever.

Which layers: plain linear layers, the LM head among them. Routers, experts' fused tensors, embeddings and norms stay as
they are: a router's rounding sends a token to another expert, and no kernel here reads fused experts in fewer bits.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers.models.falcon.modeling_falcon import FalconLinear

from osai.core.errors import SetupError
from osai.core.precision import INT4_GROUP, QUANTIZATIONS, Precision, Quantization

IN_MULTIPLE = 16  # torch's int8 kernel reads past the end of rows of any other length
INT4_OUT_MULTIPLE = 8  # rows in a tile of the int4 kernel
# Compute capability from which a GPU has the arithmetic: int4's kernel needs bf16 tensor cores, fp8 is Ada's and later.
_MIN_CAPABILITY: dict[Quantization, tuple[int, int]] = {"int4": (8, 0), "fp8": (8, 9)}
_MIN_ELEMENTS = 64 * 64  # smaller weights save nothing
_PLAIN_FORWARDS = frozenset({nn.Linear.forward, FalconLinear.forward})


def check_quantization(
    wanted: str, device_type: str, dtype: torch.dtype, capability: tuple[int, int] | None = None
) -> Quantization:
    """The quantisation of that name, if the device can do it.

    Args:
        wanted: as the node's operator wrote it.
        device_type: "cpu" or "cuda".
        dtype: of activations.
        capability: compute capability of the GPU.

    Raises:
        SetupError: saying what would work.
    """
    found = next((name for name in QUANTIZATIONS if name == wanted), None)
    if found is None:
        raise SetupError(f"{wanted!r} is no quantisation; use --quantize {', '.join(QUANTIZATIONS)}")
    if found in {"int4", "fp8"} and device_type != "cuda":
        raise SetupError(f"--quantize {found} needs a GPU; on {device_type} use --quantize int8")
    if found == "int8" and device_type == "cpu" and dtype == torch.float16:
        raise SetupError("--quantize int8 on a CPU needs --dtype bfloat16 or float32, not float16")
    if found == "int4" and dtype != torch.bfloat16:
        raise SetupError(f"--quantize int4 needs --dtype bfloat16, not {name_of(dtype)}")
    least = _MIN_CAPABILITY.get(found)
    if least and capability and capability < least:
        raise SetupError(
            f"--quantize {found} needs a GPU of compute capability {least[0]}.{least[1]}, this one has "
            f"{capability[0]}.{capability[1]}; use --quantize int8"
        )
    return found


def planned_bytes(name: str, shape: Sequence[int], quantization: Quantization, dtype: torch.dtype) -> int:
    """What a checkpoint's tensor will take in memory, worked out from its name and shape alone, see Precision."""
    precision = Precision(dtype=name_of(dtype), quantization=quantization)
    return precision.tensor_bytes(name, shape, dtype.itemsize)


def announced_dtype(dtype: torch.dtype, quantization: Quantization) -> str:
    """How a span's arithmetic is named to the swarm: `bfloat16`, or `bfloat16+int8`.

    Spans of one pipeline must have equal names. A mixed one would run, since what travels is in the activations' dtype,
    but nobody could say which model it is that answers.
    """
    return str(Precision(dtype=name_of(dtype), quantization=quantization))


def name_of(dtype: torch.dtype) -> str:
    """`bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def can_quantize(module: nn.Module, quantization: Quantization, dtype: torch.dtype) -> bool:
    """Whether a module is a linear layer that can be held in fewer bits; its weight may be on the meta device."""
    if type(module).forward not in _PLAIN_FORWARDS or not isinstance(module, nn.Linear):
        return False
    weight = module.weight
    if weight.dtype != dtype or weight.numel() < _MIN_ELEMENTS:  # what a family keeps in float32 stays so
        return False
    return _fits_kernel(weight.shape, quantization)


def quantizable(
    model: nn.Module, quantization: Quantization, dtype: torch.dtype
) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(parent, attribute, layer) of every layer of a model that can be held in fewer bits."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and can_quantize(child, quantization, dtype):
                yield parent, name, child


def stored_bytes(tensor: torch.Tensor) -> int:
    """What a tensor takes in memory, also one that stands for several, as torchao's quantised weights do."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return tensor.numel() * tensor.element_size()
    names, _ = flatten()
    return sum(stored_bytes(getattr(tensor, name)) for name in names)


def _fits_kernel(shape: Sequence[int], quantization: Quantization) -> bool:
    num_out, num_in = shape
    if quantization == "int4":
        return num_in % INT4_GROUP == 0 and num_out % INT4_OUT_MULTIPLE == 0
    return num_in % IN_MULTIPLE == 0 and num_out % IN_MULTIPLE == 0
