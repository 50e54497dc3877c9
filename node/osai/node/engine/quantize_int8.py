"""Linear layers on the CPU whose weights are int8, with one scale for each output."""

from typing import Self

import torch
from torch import nn
from torch.nn import functional

from osai.node.engine.quantize_kernel import Int8Kernel, int8_panels

# Up to this many rows torch's int8 kernel reads the weights once and fast; its time grows with the rows. Above it,
# blocks of the weights become floats that stay in the cache for one matrix product. Equal at 8 rows in bfloat16.
MAX_KERNEL_ROWS = 8
_BLOCK_BYTES = 4 << 20  # of weights made floats at a time: fits in the last-level cache
_LARGEST = 127  # symmetric: -128 is left out


class Int8Linear(nn.Module):
    """Stands in for an `nn.Linear`: x W^T + b with W = quantised weights * scales, rounded as `quantize_rows` says.

    In bfloat16 by osai's kernel, where there is one; else by torch's, which is half as fast and good for a few rows
    alone, and by blocks.

    Attributes:
        weight: int8 [out_features, in_features], or what the kernel makes of it.
        scales: [out_features], of the activations' dtype.
        bias: [out_features], or None.
    """

    weight: torch.Tensor
    scales: torch.Tensor

    def __init__(
        self, weight: torch.Tensor, scales: torch.Tensor, bias: nn.Parameter | None, kernel: Int8Kernel | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._kernel = kernel if scales.dtype == torch.bfloat16 and self.in_features % 2 == 0 else None
        if self._kernel is not None:
            weight = int8_panels(weight)
        self.register_buffer("weight", weight)  # persistent: transformers wipes the others at the end of loading
        self.register_buffer("scales", scales)
        self.bias = bias

    @classmethod
    def quantized(cls, weight: torch.Tensor, bias: nn.Parameter | None, kernel: Int8Kernel | None = None) -> Self:
        """Of a float weight [out_features, in_features]."""
        return cls(*quantize_rows(weight), bias, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features]."""
        rows = x.reshape(-1, self.in_features)
        if self._kernel is not None and len(rows):
            done = self._kernel(rows.contiguous(), self.weight, self.scales, self.bias)
            return done.view(*x.shape[:-1], self.out_features)
        if rows.dtype == torch.bfloat16 and 0 < len(rows) <= MAX_KERNEL_ROWS:
            out = torch._weight_int8pack_mm(rows.contiguous(), self.weight, self.scales)  # noqa: SLF001
        else:
            out = self._by_blocks(rows)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features)

    def _by_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        """[num_rows, in_features] to [num_rows, out_features], a block of outputs at a time."""
        if not len(rows):
            return rows.new_empty(0, self.out_features)
        size = max(16, _BLOCK_BYTES // (self.in_features * rows.element_size()))
        out = rows.new_empty(rows.shape[0], self.out_features)
        block = rows.new_empty(min(size, self.out_features), self.in_features)
        for start in range(0, self.out_features, size):
            end = min(start + size, self.out_features)
            floats = block[: end - start].copy_(self.weight[start:end])  # exact: 127 has 7 bits
            out[:, start:end] = functional.linear(rows, floats)
        return out.mul_(self.scales)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row of a weight to whole multiples of its own scale, the largest to 127 of them.

    The scale is rounded to the weight's dtype first, so that weight = quantised * scale is off by half a scale at most
    (and by the largest numbers' clamping, less than that).

    Args:
        weight: [out_features, in_features], a float dtype.

    Returns:
        int8 [out_features, in_features] and scales [out_features] of the weight's dtype.
    """
    weight = weight.detach()
    largest = weight.abs().amax(dim=1).float()
    scales = (largest / _LARGEST).to(weight.dtype)
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))  # a row of zeros
    quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    size = max(1, _BLOCK_BYTES // (4 * weight.shape[1]))
    for start in range(0, weight.shape[0], size):  # the float32 copy is of a block alone
        part = weight[start : start + size].float() / scales[start : start + size, None].float()
        quantized[start : start + size] = part.round_().clamp_(-_LARGEST, _LARGEST)
    return quantized, scales
