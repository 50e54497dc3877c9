"""The compiled kernels as Python functions over tensors."""

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch

from osai.core.errors import SetupError
from osai.node.engine.kernels.build import build, default_folder

_log = logging.getLogger(__name__)

PANEL = 64  # outputs that lie together, see linear.c
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int


class Kernels:
    """The compiled library. What the processor can't do is not in it."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        if (openmp := _openmp()) is not None:
            functions = (openmp.GOMP_parallel, openmp.omp_get_thread_num)
            self._library.osai_use_threads(*(ctypes.cast(function, _POINTER) for function in functions))
        self._linear = self._find("osai_linear", [_POINTER] * 4 + [_SIZE] * 3 + [_POINTER, _INT])
        self._can_split = openmp is not None

    def _find(self, name: str, argtypes: list[type]) -> dict[torch.dtype, "ctypes._FuncPointer"]:
        found = {}
        for dtype, suffix in _SUFFIX.items():
            function = getattr(self._library, f"{name}_{suffix}", None)
            if function is not None:
                function.argtypes, function.restype = argtypes, None
                found[dtype] = function
        return found

    def can_linear(self, dtype: torch.dtype) -> bool:
        """Whether `linear` takes that dtype on this processor."""
        return dtype in self._linear

    def linear(
        self, x: torch.Tensor, panels: torch.Tensor, bias: torch.Tensor | None, out_features: int
    ) -> torch.Tensor:
        """`x w^T + bias`: [num_rows, in_features] to [num_rows, out_features], all of one dtype, on the CPU.

        Args:
            x: contiguous.
            panels: the weights, from `panels_of`.
            bias: [out_features] or None.
            out_features: of the weights, without what fills up the last panel.
        """
        num_rows, in_features = x.shape
        out = x.new_empty(num_rows, out_features)
        tiles = x.new_empty(x.numel() if num_rows > 1 else 0)
        self._linear[x.dtype](
            x.data_ptr(), panels.data_ptr(), None if bias is None else bias.data_ptr(), out.data_ptr(),
            num_rows, out_features, in_features, tiles.data_ptr(), self._num_threads(),
        )  # fmt: skip
        return out

    def _num_threads(self) -> int:
        return torch.get_num_threads() if self._can_split else 1


def panels_of(weight: torch.Tensor) -> torch.Tensor:
    """Weights [out_features, in_features] in the order in which `linear` reads them, filled up to whole panels.

    [num_panels, in_features, PANEL] in float32; in bfloat16 pairs of inputs lie together:
    [num_panels, in_features / 2, PANEL, 2].
    """
    out_features, in_features = weight.shape
    num_panels, together = -(-out_features // PANEL), 2 if weight.dtype == torch.bfloat16 else 1
    panels = weight.new_zeros(num_panels, in_features // together, PANEL, together)
    for panel, rows in zip(panels, torch.split(weight, PANEL), strict=True):
        panel[:, : len(rows)] = rows.view(len(rows), -1, together).transpose(0, 1)
    return panels


@cache
def load_kernels() -> Kernels | None:
    """The kernels for this machine, compiled if need be; None, with a word in the log, where that can't be done."""
    try:
        return Kernels(build(default_folder()))
    except (SetupError, OSError) as e:
        _log.warning("no kernels of osai's own, so steps take up to twice as long: %s", e)
        return None


def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded; None where torch brings another kind."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        return ctypes.CDLL(str(path))
    return None
