"""osai's own kernel for linear layers of int8 weights (kernels/linear_int8.c), where the processor has what it takes.

On Zen 4 it takes half the time of the kernel for bfloat16 weights with up to four rows, and about the same with more.
"""

import ctypes
from functools import cache
from typing import Any

import torch

from osai.core.errors import SetupError
from osai.node.engine.kernels.build import build, default_folder
from osai.node.engine.kernels.library import load_kernels

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t
PANEL = 64  # outputs that lie together, see linear_int8.c
_MAX_NARROW = 16  # rows up to which the kernel without AMX unpacks weights as it reads them, and needs no scratch


class Int8Kernel:
    """The kernel as a Python function over tensors on the CPU.

    Args:
        function: `osai_linear_int8_bf16`.
        has_amx: whether it uses that, see Kernels.
    """

    def __init__(self, function: Any, *, has_amx: bool) -> None:  # noqa: ANN401  ctypes has no public type for it
        function.argtypes = [_POINTER] * 5 + [_SIZE] * 3 + [_POINTER] * 2 + [ctypes.c_int]
        function.restype = None
        self._function = function
        self._max_unscratched = 0 if has_amx else _MAX_NARROW

    def __call__(
        self, rows: torch.Tensor, panels: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Rows bf16 [num_rows, in_features], contiguous, at least one, to [num_rows, out_features].

        Args:
            rows: of activations.
            panels: weights, from `int8_panels`.
            scales: bf16 [out_features].
            bias: bf16 [out_features] or None.
        """
        (num_rows, in_features), num_threads = rows.shape, _num_threads()
        out = rows.new_empty(num_rows, len(scales))
        tiles = rows.new_empty(rows.numel() if num_rows > 1 else 0)
        scratch = rows.new_empty(num_threads * in_features * PANEL if num_rows > self._max_unscratched else 0)
        self._function(
            rows.data_ptr(), panels.data_ptr(), scales.data_ptr(), None if bias is None else bias.data_ptr(),
            out.data_ptr(), num_rows, len(scales), in_features, tiles.data_ptr(), scratch.data_ptr(), num_threads,
        )  # fmt: skip
        return out


def int8_panels(weight: torch.Tensor) -> torch.Tensor:
    """Weights int8 [out_features, in_features] as the kernel reads them, filled up to whole panels.

    uint8 [num_panels, in_features / 2, 128]: sign and magnitude; the 128 bytes of a step are, twice, 16 outputs of each
    half of 32, by fours, as unpacking the bytes of 128-bit lanes will part them again.
    """
    out_features, in_features = weight.shape
    num_panels = -(-out_features // PANEL)
    panels = torch.zeros(num_panels, in_features // 2, 2 * PANEL, dtype=torch.uint8)
    for panel, rows in zip(panels, torch.split(weight, PANEL), strict=True):
        signed = torch.zeros(PANEL, in_features, dtype=torch.uint8)
        signed[: len(rows)] = rows.abs().to(torch.uint8) | (rows < 0).to(torch.uint8) * 128
        # [32s, halves, lanes, fours, steps, pairs] to [steps, 32s, lanes, halves, fours, pairs]
        parted = signed.view(2, 2, 4, 4, -1, 2).permute(4, 0, 2, 1, 3, 5)
        panel.copy_(parted.reshape(-1, 2 * PANEL))
    return panels


@cache
def load_int8_kernel() -> Int8Kernel | None:
    """The kernel for this machine; None where it can't be had."""
    kernels = load_kernels()  # which also gives the library its threads, and the use of AMX
    if kernels is None:
        return None
    try:
        function = getattr(ctypes.CDLL(str(build(default_folder()))), "osai_linear_int8_bf16", None)
    except (SetupError, OSError):
        return None
    return None if function is None else Int8Kernel(function, has_amx=kernels.has_amx)


def _num_threads() -> int:
    kernels = load_kernels()
    return 1 if kernels is None else kernels.num_threads
