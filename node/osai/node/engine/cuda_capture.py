"""Captures what runs on a GPU in a graph that can be replayed."""

from collections.abc import Callable
from functools import cache
from typing import Protocol, TypeAlias

import torch

_NUM_WARM_UPS = 2  # before a capture: kernels load, workspaces are allocated


class Graph(Protocol):
    """A captured step."""

    def replay(self) -> None:
        """Run it again on what its input tensors hold now."""
        ...


Capture: TypeAlias = Callable[[Callable[[], torch.Tensor]], tuple[Graph, torch.Tensor]]


@cache
def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    """One a device for good: cuBLAS never lets go of the workspace that it takes for each stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class CudaCapture:
    """Captures on a GPU, which must be the current one. The graphs share one pool of memory, since no two run at once.

    So what a graph allocates is overwritten by the next replay of any of them.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._beside = _stream_beside(device)

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        """Warm up on a stream beside, as capturing wants it, then capture.

        Other threads, which may be loading weights, are free to use the device meanwhile.
        """
        usual, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        self._beside.wait_stream(usual)
        with torch.cuda.stream(self._beside):
            for _ in range(_NUM_WARM_UPS):
                run()
        usual.wait_stream(self._beside)
        with torch.cuda.stream(usual):  # a capture that fails leaves the stream beside the current one
            with torch.cuda.graph(graph, pool=self._pool, stream=self._beside, capture_error_mode="thread_local"):
                out = run()
            return graph, out
