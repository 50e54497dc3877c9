"""The compiled kernels as Python functions over tensors."""

import ctypes
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch

from osai.core.errors import SetupError
from osai.node.engine.kernels.build import build, default_folder
from osai.node.engine.kernels.structures import Attention, LayerArgs

_log = logging.getLogger(__name__)

AT_MOST = 64  # outputs that a kernel takes at once, see linear.c: weights are filled up to whole ones
HUGE_PAGE = 2 * 2**20  # bytes, of x86
_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int


class Kernels:
    """The compiled library. All tensors are on the CPU, and those of one call have one dtype, which `can` says yes to.

    What the processor can't do is not in the library.

    Args:
        library: its file.
        amx: whether to multiply bfloat16 by AMX, on Intel's processors that have it: from 16 rows on it is several
            times as fast. It adds in another order than AVX-512, so all calls of a process do the same.

    Attributes:
        has_amx: whether that is done.
    """

    def __init__(self, library: Path, *, amx: bool = True) -> None:
        self._library = ctypes.CDLL(str(library))
        self.has_amx = amx and hasattr(self._library, "osai_use_amx") and bool(self._library.osai_use_amx())
        openmp = _openmp()
        if openmp is not None:
            functions = (openmp.GOMP_parallel, openmp.omp_get_thread_num)
            self._library.osai_use_threads(*(ctypes.cast(function, _POINTER) for function in functions))
        self._panel = (
            _INT.in_dll(self._library, "osai_panel").value if hasattr(self._library, "osai_panel") else AT_MOST
        )
        self._can_split = openmp is not None
        self._linear = self._find("linear", [_POINTER] * 4 + [_SIZE] * 3 + [_POINTER, _INT])
        self._norm = self._find("norm", [_POINTER] * 3 + [_SIZE] * 3 + [ctypes.c_float] * 2 + [_INT])
        self._rope = self._find("rope", [_POINTER] * 3 + [_SIZE] * 5)
        self._swiglu = self._find("swiglu", [_POINTER] * 2 + [_SIZE] * 2)
        self._attend = self._find("attend", [ctypes.POINTER(Attention)])
        self._layers = self._find("layers", [_POINTER, _POINTER, _SIZE])

    def _find(self, name: str, argtypes: list[Any]) -> dict[torch.dtype, Any]:
        found = {}
        for dtype, suffix in _SUFFIX.items():
            function = getattr(self._library, f"osai_{name}_{suffix}", None)
            if function is not None:
                function.argtypes, function.restype = argtypes, None
                found[dtype] = function
        return found

    def can(self, dtype: torch.dtype) -> bool:
        """Whether all kernels take that dtype on this processor."""
        return dtype in self._linear and dtype in self._attend

    @property
    def num_threads(self) -> int:
        """In how many threads a kernel runs: as many as torch's operators."""
        return torch.get_num_threads() if self._can_split else 1

    def linear(
        self, x: torch.Tensor, panels: torch.Tensor, bias: torch.Tensor | None, out_features: int
    ) -> torch.Tensor:
        """`x w^T + bias`: [num_rows, in_features] to [num_rows, out_features].

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
            num_rows, out_features, in_features, tiles.data_ptr(), self.num_threads,
        )  # fmt: skip
        return out

    def panels_of(self, weight: torch.Tensor) -> torch.Tensor:
        """Weights [out_features, in_features] in the order in which `linear` reads them, filled up with zeros.

        [num_panels, in_features, outputs of a panel] in float32; in bfloat16 pairs of inputs lie together:
        [num_panels, in_features / 2, outputs of a panel, 2].
        """
        out_features, in_features = weight.shape
        num_outputs, together = -(-out_features // AT_MOST) * AT_MOST, 2 if weight.dtype == torch.bfloat16 else 1
        panels = on_huge_pages(num_outputs * in_features, weight.dtype).zero_()
        panels = panels.view(-1, in_features // together, self._panel, together)
        for panel, rows in zip(panels, torch.split(weight, self._panel), strict=False):  # the last ones may be zeros
            panel[:, : len(rows)] = rows.view(len(rows), -1, together).transpose(0, 1)
        return panels

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, *, rounds_first: bool
    ) -> torch.Tensor:
        """Root mean square norm of x [..., dim], contiguous, times offset + weight [dim].

        `rounds_first`: the normed rows are rounded to the dtype before they are multiplied.
        """
        out = torch.empty_like(x)
        dim = x.shape[-1]
        self._norm[x.dtype](
            x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // dim, dim, dim, eps, offset, rounds_first
        )
        return out

    def rope(self, x: torch.Tensor, num_heads: int, dim: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Turn the first `num_heads` heads of x [num_rows, >= num_heads * dim] in place.

        Args:
            x: rows contiguous.
            num_heads: of each row.
            dim: of a head.
            cos: [num_rows, turned], contiguous, both halves alike; the first `turned` numbers of a head turn.
            sin: likewise.
        """
        self._rope[x.dtype](
            x.data_ptr(), cos.data_ptr(), sin.data_ptr(), len(x), num_heads, dim, cos.shape[-1] // 2, x.stride(0)
        )

    def swiglu(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up of x [num_rows, 2 * dim], contiguous, gates first: [num_rows, dim]."""
        out = x.new_empty(len(x), x.shape[1] // 2)
        self._swiglu[x.dtype](x.data_ptr(), out.data_ptr(), *out.shape)
        return out

    def attend(self, dtype: torch.dtype, args: Attention) -> None:
        """Attention of single rows over paged keys, see attention.c."""
        self._attend[dtype](ctypes.byref(args))

    def layers(self, dtype: torch.dtype, weights: ctypes.Array[Any], args: ctypes.Array[LayerArgs]) -> None:
        """Decoder layers over single rows, one after the other, see layer.c; `weights` points to one's LayerWeights."""
        self._layers[dtype](weights, args, len(args))


def on_huge_pages(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Room for so many numbers on the CPU, which begins with a huge page if it fills one.

    torch asks for huge pages but begins anywhere: of a weight of 3 MB it often gets none, and small ones are read at
    two thirds of the speed.
    """
    num_bytes = count * dtype.itemsize
    if num_bytes < HUGE_PAGE:
        return torch.empty(count, dtype=dtype)
    room = torch.empty(num_bytes + HUGE_PAGE, dtype=torch.uint8)  # what is not written takes no memory
    first = -room.data_ptr() % HUGE_PAGE
    return room[first : first + num_bytes].view(dtype)


@cache
def load_kernels() -> Kernels | None:
    """The kernels for this machine, compiled if need be; None, with a word in the log, where that can't be done.

    OSAI_AMX=0 in the environment leaves AMX alone.
    """
    try:
        return Kernels(build(default_folder()), amx=os.environ.get("OSAI_AMX") != "0")
    except (SetupError, OSError) as e:
        _log.warning(
            "no kernels of osai's own: steps take two to six times as long, and a batch rounds its rows otherwise: %s",
            e,
        )
        return None


def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded; None where torch brings another kind."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        return ctypes.CDLL(str(path))
    return None
