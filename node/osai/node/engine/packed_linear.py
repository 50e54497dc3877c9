"""Linear layers whose weights lie in memory in the order in which they are read.

A decode step is bound by how fast it reads the weights. On a CPU, torch's plain linear layer reads them at a third of
what the memory gives, and at less with a few rows. osai's own kernel, where it can be compiled (x86 with AVX2 or
AVX-512), reads them at 0.9 of it for up to four rows, and a row's result does not depend on the other rows. Elsewhere
oneDNN reads weights that it has packed, at about half. In bfloat16 the results differ from the plain layer's by
rounding at most, in float32 by the order of additions (relative 2e-6).
"""

import math
from types import MappingProxyType
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional
from transformers.models.falcon.modeling_falcon import FalconLinear

from osai.node.engine.kernels.library import Kernels, on_huge_pages

# Weights with fewer elements are not for oneDNN: a call takes some us more, and small ones lie in cache anyway.
MIN_ELEMENTS = MappingProxyType({torch.bfloat16: 128 * 128, torch.float32: 512 * 512})
_NUM_ROWS = 16  # for which oneDNN chooses the layout; any number works, and this one was as good as 1 for one row
_MIN_ROWS_ONEDNN = 4  # with fewer, oneDNN reads weights at two thirds of the speed: rows of zeros make up for it
_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")  # torch's own, not public
_PLAIN_FORWARDS = frozenset({nn.Linear.forward, FalconLinear.forward})


class LinearKernel(Protocol):
    """A weight as a kernel wants it.

    Attributes:
        weight_bytes: what it takes in memory.
    """

    weight_bytes: int

    def __call__(self, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[num_rows, in_features] to [num_rows, out_features]; there is at least one row."""
        ...


class Panels:
    """A weight for osai's own kernel."""

    @staticmethod
    def fit(kernels: Kernels | None, weight: torch.Tensor) -> bool:
        """Whether the kernel takes a weight: in bfloat16 it takes inputs by pairs."""
        if kernels is None or weight.device.type != "cpu" or not kernels.can(weight.dtype):
            return False
        return weight.shape[1] % 2 == 0

    def __init__(self, kernels: Kernels, weight: torch.Tensor) -> None:
        self._kernels = kernels
        self.out_features, self.in_features = weight.shape
        self.panels = kernels.panels_of(weight)
        self.weight_bytes = self.panels.numel() * weight.itemsize

    def __call__(self, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """See LinearKernel."""
        return self._kernels.linear(rows.contiguous(), self.panels, bias, self.out_features)


def lay_together(*products: Panels) -> None:
    """Move weights of one dtype that are read one after the other into one buffer, so that they share huge pages."""
    room = on_huge_pages(sum(p.panels.numel() for p in products), products[0].panels.dtype)
    parts = torch.split(room, [p.panels.numel() for p in products])
    for product, part in zip(products, parts, strict=True):
        product.panels = part.view_as(product.panels).copy_(product.panels)


class OneDNN:
    """A weight that oneDNN has packed."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight_bytes = weight.numel() * weight.itemsize
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _NUM_ROWS)  # noqa: SLF001

    def __call__(self, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """See LinearKernel."""
        num_rows, linear = len(rows), torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001
        if num_rows < _MIN_ROWS_ONEDNN:
            rows = functional.pad(rows, (0, 0, 0, _MIN_ROWS_ONEDNN - num_rows))
        out: torch.Tensor = linear(rows, self._packed, bias, "none", [], "")
        return out[:num_rows]


class PackedLinear(nn.Module):
    """Stands in for an `nn.Linear` on the CPU, whose weight it takes over.

    Attributes:
        kernel: holds the weight.
        weight_bytes: what the weight takes.
    """

    def __init__(self, linear: nn.Linear, kernels: Kernels | None) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.out_features, self.in_features = weight.shape
        self.kernel = _kernel_for(weight, kernels)
        self.bias = linear.bias
        self.weight_bytes = self.kernel.weight_bytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features]."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        out = self.kernel(x.reshape(-1, self.in_features), self.bias)
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def pack_linears(model: nn.Module, kernels: Kernels | None) -> int:
    """Pack the weight of every plain linear layer of a model on the CPU, one after the other; how many there were.

    Layers with a forward of their own are left alone, as is everything that can't be packed here (another processor or
    dtype), or would gain nothing. A weight that an embedding shares is kept for it beside the packed one.

    Args:
        model: whose layers.
        kernels: osai's own, if this machine has them (`load_kernels`).
    """
    packed = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).forward in _PLAIN_FORWARDS and _can_pack(child.weight, kernels):  # type: ignore[arg-type]
                setattr(parent, name, PackedLinear(child, kernels))  # type: ignore[arg-type]
                packed += 1
    return packed


def _kernel_for(weight: torch.Tensor, kernels: Kernels | None) -> LinearKernel:
    if kernels is not None and Panels.fit(kernels, weight):
        return Panels(kernels, weight)
    return OneDNN(weight)


def _can_pack(weight: torch.Tensor, kernels: Kernels | None) -> bool:
    if weight.device.type != "cpu":
        return False
    if Panels.fit(kernels, weight):
        return True  # however small: torch's plain layer rounds one row otherwise than several
    return weight.numel() >= MIN_ELEMENTS.get(weight.dtype, math.inf) and _onednn_takes(weight.dtype)


def _onednn_takes(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
