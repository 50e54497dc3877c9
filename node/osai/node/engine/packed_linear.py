"""Linear layers whose weights lie in memory as oneDNN wants to read them.

A decode step is bound by how fast it reads the weights. On a CPU, torch's plain linear layer reads them at half of what
the memory gives, and in float32 at less with a few rows; over packed weights oneDNN reads them at nearly all of it. The
results are the same in bfloat16, and differ in float32 by the order of additions (relative 6e-7).
"""

import math
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional
from transformers.models.falcon.modeling_falcon import FalconLinear

# Weights with fewer elements stay plain: a call of oneDNN takes about 12 us more, and small ones lie in cache anyway.
MIN_ELEMENTS = MappingProxyType({torch.bfloat16: 128 * 128, torch.float32: 512 * 512})
_NUM_ROWS = 16  # for which oneDNN chooses the layout; any number works, and this one was as good as 1 for one row
_MIN_ROWS_FLOAT32 = 4  # with fewer, oneDNN reads float32 weights at half the speed: rows of zeros make up for it
_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")  # torch's own, not public
_PLAIN_FORWARDS = frozenset({nn.Linear.forward, FalconLinear.forward})


class PackedLinear(nn.Module):
    """Stands in for an `nn.Linear` on the CPU, whose weight it takes over.

    Attributes:
        weight_bytes: what the packed weight takes.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _NUM_ROWS)  # noqa: SLF001
        self._min_rows = _MIN_ROWS_FLOAT32 if weight.dtype == torch.float32 else 1
        self.bias = linear.bias
        self.weight_bytes = weight.numel() * weight.element_size()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features]."""
        linear = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001
        num_rows = x.numel() // self.in_features
        if self._min_rows <= num_rows or num_rows == 0:
            out: torch.Tensor = linear(x, self._packed, self.bias, "none", [], "")
            return out
        rows = functional.pad(x.reshape(num_rows, -1), (0, 0, 0, self._min_rows - num_rows))
        padded: torch.Tensor = linear(rows, self._packed, self.bias, "none", [], "")
        return padded[:num_rows].view(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def pack_linears(model: nn.Module) -> int:
    """Pack the weight of every plain linear layer of a model on the CPU, one after the other; how many there were.

    Layers with a forward of their own are left alone, as is everything where oneDNN can't do it (another processor or
    dtype), or it would gain nothing. A weight that an embedding shares is kept for it beside the packed one.
    """
    packed = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).forward in _PLAIN_FORWARDS and _can_pack(child.weight):  # type: ignore[arg-type]
                setattr(parent, name, PackedLinear(child))  # type: ignore[arg-type]
                packed += 1
    return packed


def _can_pack(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or weight.numel() < MIN_ELEMENTS.get(weight.dtype, math.inf):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
        return False
    return weight.dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
