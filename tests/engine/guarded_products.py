"""A program: products by osai's kernels, where each buffer ends at a page that can't be touched."""

import ctypes
import itertools
import mmap
import sys

import torch

from osai.node.engine.kernels.build import build, default_folder
from osai.node.engine.kernels.library import Kernels
from osai.node.engine.quantize_kernel import PANEL, int8_panels

NUM_ROWS = (1, 2, 16, 17, 33, 70, 257)
OUT_FEATURES = (33, 64, 330)
IN_FEATURES = (2, 30, 34, 64, 1026, 2082)
NONE, PRIVATE, READ_WRITE = 0, 0x22, 3  # of mman.h; private memory is anonymous too
POINTER, SIZE = ctypes.c_void_p, ctypes.c_ssize_t

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """Buffers of one product; all go with it."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, int]] = []

    def room(self, num_bytes: int) -> int:
        """The address of so many bytes with a forbidden page behind them."""
        whole = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        begin = libc.mmap(None, whole + mmap.PAGESIZE, READ_WRITE, PRIVATE, -1, 0)
        if libc.mprotect(begin + whole, mmap.PAGESIZE, NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
        self._pieces.append((begin, whole + mmap.PAGESIZE))
        return int(begin + whole - num_bytes)

    def copy(self, tensor: torch.Tensor) -> int:
        """The address of a tensor's numbers."""
        held = tensor.contiguous()
        num_bytes = held.numel() * held.itemsize
        address = self.room(num_bytes)
        ctypes.memmove(address, held.data_ptr(), num_bytes)
        return address

    def free(self) -> None:
        """Give all back."""
        for begin, num_bytes in self._pieces:
            libc.munmap(begin, num_bytes)


def main(*, amx: bool) -> None:
    """Try every shape; the process dies where a kernel leaves its buffers."""
    library = build(default_folder())
    own, kernels = Kernels(library, amx=amx), ctypes.CDLL(str(library))
    for m, n, k, num_threads in itertools.product(NUM_ROWS, OUT_FEATURES, IN_FEATURES, (1, 2)):
        held = Guarded()
        plain(own, kernels, held, (m, n, k, num_threads))
        if hasattr(kernels, "osai_linear_int8_bf16"):
            in_8_bits(kernels, held, (m, n, k, num_threads))
        held.free()
    sys.stdout.write("within its buffers\n")


def plain(own: Kernels, kernels: ctypes.CDLL, held: Guarded, shape: tuple[int, int, int, int]) -> None:
    """A product by weights of each dtype."""
    m, n, k, num_threads = shape
    for linear, dtype in ((kernels.osai_linear_f32, torch.float32), (kernels.osai_linear_bf16, torch.bfloat16)):
        linear.argtypes = [POINTER] * 4 + [SIZE] * 3 + [POINTER, ctypes.c_int]
        x, bias, weight = torch.randn(m, k).to(dtype), torch.randn(n).to(dtype), torch.randn(n, k).to(dtype)
        tiles, out = (held.room(dtype.itemsize * m * width) for width in (k, n))
        linear(held.copy(x), held.copy(own.panels_of(weight)), held.copy(bias), out, m, n, k, tiles, num_threads)


def in_8_bits(kernels: ctypes.CDLL, held: Guarded, shape: tuple[int, int, int, int]) -> None:
    """A product by int8 weights."""
    m, n, k, num_threads = shape
    linear = kernels.osai_linear_int8_bf16
    linear.argtypes = [POINTER] * 5 + [SIZE] * 3 + [POINTER] * 2 + [ctypes.c_int]
    x, bias, scales = torch.randn(m, k).bfloat16(), torch.randn(n).bfloat16(), torch.rand(n).bfloat16()
    panels = int8_panels(torch.randint(-127, 128, (n, k), dtype=torch.int8))
    linear(held.copy(x), held.copy(panels), held.copy(scales), held.copy(bias), held.room(2 * m * n),
           m, n, k, held.room(2 * m * k), held.room(2 * num_threads * k * PANEL), num_threads)  # fmt: skip


if __name__ == "__main__":
    main(amx=sys.argv[1] == "amx")
