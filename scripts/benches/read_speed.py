"""How fast this machine reads memory: the best of several ways of going once over a large buffer."""

import ctypes
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import torch

BUFFER_BYTES = 256 * 2**20  # many times any cache of a core
NUM_PASSES = 5  # of each way, whose median counts
ABSENT_BYTE = 0x01  # in no byte of a float32 of 1.0 (00 00 80 3f): memchr reads to the end


class ReadSpeed:
    """A buffer to read, with as many threads as are measured beside it.

    The buffer comes from torch's allocator, as weights do, so that it lies on huge pages where they would.
    Single-threaded ways run on a slice each in every thread.
    """

    def __init__(self, num_threads: int, num_bytes: int = BUFFER_BYTES) -> None:
        self._buffer = torch.ones(num_bytes // 4, dtype=torch.float32)  # written, so that every page is there
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads)
        libc = ctypes.CDLL(None)
        self._memchr = libc.memchr
        self._memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        self._memchr.restype = ctypes.c_void_p

    @property
    def num_bytes(self) -> int:
        """Bytes of one pass."""
        return self._buffer.numel() * 4

    def measure(self) -> dict[str, float]:
        """Bytes a second of each way: the median of a few passes."""
        ways: Mapping[str, Callable[[], object]] = {
            "torch sum": self._buffer.sum,
            "numpy sum": lambda: self._in_threads(np.sum),
            "OpenBLAS dot": lambda: self._in_threads(_dot_of_halves),
            "OpenBLAS matrix by vector": lambda: self._in_threads(_by_vector),
            "memchr": lambda: self._in_threads(self._search),
        }
        return {name: self.num_bytes / _median_s(way) for name, way in ways.items()}

    def _in_threads(self, read: Callable[[np.ndarray[tuple[int], np.dtype[np.float32]]], object]) -> None:
        parts = np.array_split(self._buffer.numpy(), self._num_threads)
        if len(parts) == 1:
            read(parts[0])
        else:
            list(self._pool.map(read, parts))

    def _search(self, part: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
        if self._memchr(part.ctypes.data, ABSENT_BYTE, part.nbytes) is not None:
            raise ArithmeticError("memchr found what is not there")


def _dot_of_halves(part: np.ndarray[tuple[int], np.dtype[np.float32]]) -> object:
    half = len(part) // 2
    return np.dot(part[:half], part[half : 2 * half])


def _by_vector(part: np.ndarray[tuple[int], np.dtype[np.float32]]) -> object:
    num_columns = 1024
    rows = part[: len(part) // num_columns * num_columns].reshape(-1, num_columns)
    return rows @ np.ones(num_columns, dtype=np.float32)


def _median_s(way: Callable[[], object]) -> float:
    times = []
    for _ in range(NUM_PASSES):
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return median(times)
