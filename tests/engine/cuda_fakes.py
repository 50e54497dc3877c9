"""Kernels that do on the CPU what those of a GPU are documented to do, and pages of known keys and values.

The capture is make_fx's: like a CUDA graph, a replay runs the tensor operations that were recorded and none of the
Python between them, so what was worked out on the host is frozen.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from osai.node.engine.attention import How, attend
from osai.node.engine.cuda_capture import Graph
from osai.node.engine.cuda_copies import PlainCopies
from osai.node.engine.cuda_pages import PagedRows
from osai.node.engine.windows import Window

HEADS, KV_HEADS, DIM, NUM_BLOCKS = 4, 2, 64, 40
NULL, SCRATCH = NUM_BLOCKS, NUM_BLOCKS + 1
FULL, SLIDING, CHUNKED = Window(), Window("sliding", 7), Window("chunked", 8)
PLAIN = How(DIM**-0.5)
CPU = torch.device("cpu")


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: tuple[int, int], how: How) -> torch.Tensor:
    """[count, heads, dim]: the rows are the last of the keys, as flash attention aligns them; window by FA's rule."""
    count, num_keys = len(q), len(k)
    queries, keys = torch.arange(num_keys - count, num_keys)[:, None], torch.arange(num_keys)[None]
    mask = keys <= queries if window[1] == 0 else torch.ones(count, num_keys, dtype=torch.bool)
    if window[0] >= 0:
        mask = mask & (keys >= queries - window[0])
    return attend(q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], mask, how)[0].transpose(
        0, 1
    )


def fake_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
    max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
    seqused_k: torch.Tensor | None = None, block_table: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """torch.nn.attention.varlen.varlen_attn, by its docstring."""
    assert all(t.dtype == torch.int32 for t in (cu_seq_q, cu_seq_k, seqused_k, block_table) if t is not None)
    assert enable_gqa == (query.shape[1] != key.shape[-2])
    outs = []
    for i in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[i] : cu_seq_q[i + 1]]
        assert len(q) <= max_q
        if block_table is not None:
            assert key.shape[1] % 256 == 0
            k, v = (pages[block_table[i].long()].flatten(0, 1) for pages in (key, value))
        else:
            k, v = (packed[cu_seq_k[i] : cu_seq_k[i + 1]] for packed in (key, value))
        used = len(k) if seqused_k is None else int(seqused_k[i])
        assert used <= max_k
        outs.append(dense(q, k[:used], v[:used], window_size, How(scale)))
    return torch.cat(outs)


class FakeFlashInfer:
    """flashinfer's prefill wrapper, by its docstrings."""

    def __init__(self) -> None:
        self.wrappers: list[Any] = []

    def BatchPrefillWithPagedKVCacheWrapper(  # noqa: N802
        self,
        workspace: torch.Tensor,
        kv_layout: str,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        self.wrappers.append(FakeWrapper(kv_layout, **kwargs))
        return self.wrappers[-1]


class FakeWrapper:
    def __init__(self, kv_layout: str, *, use_cuda_graph: bool = False, **buffers: torch.Tensor) -> None:
        assert kv_layout == "NHD"
        assert use_cuda_graph == bool(buffers)
        assert set(buffers) <= {
            "qo_indptr_buf", "paged_kv_indptr_buf", "paged_kv_indices_buf", "paged_kv_last_page_len_buf",
        }  # fmt: skip
        self.buffers, self.num_plans = buffers, 0

    def plan(
        self, qo_indptr: torch.Tensor, paged_kv_indptr: torch.Tensor, paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor, num_qo_heads: int, num_kv_heads: int, head_dim_qk: int, page_size: int,
        *, causal: bool, sm_scale: float, window_left: int, logits_soft_cap: float | None, q_data_type: torch.dtype,
        kv_data_type: torch.dtype,
    ) -> None:  # fmt: skip
        assert causal
        assert q_data_type == kv_data_type
        tensors = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        assert all(t.dtype == torch.int32 and t.device.type == "cpu" for t in tensors)
        if self.buffers:
            assert len(paged_kv_indices) <= len(self.buffers["paged_kv_indices_buf"])
            assert len(qo_indptr) == len(self.buffers["qo_indptr_buf"])
        self.planned = [t.tolist() for t in tensors]
        self.sizes, self.window_left = (num_qo_heads, num_kv_heads, head_dim_qk, page_size), window_left
        self.how = How(sm_scale, logits_soft_cap)
        self.num_plans += 1

    def run(self, q: torch.Tensor, paged_kv_cache: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        keys, values = paged_kv_cache
        assert self.sizes == (q.shape[1], keys.shape[2], q.shape[2], keys.shape[1])
        q_starts, page_starts, pages, last = self.planned
        outs = []
        for i in range(len(last)):
            blocks = pages[page_starts[i] : page_starts[i + 1]]
            used = (len(blocks) - 1) * keys.shape[1] + last[i]
            k, v = (store[blocks].flatten(0, 1)[:used] for store in (keys, values))
            outs.append(dense(q[q_starts[i] : q_starts[i + 1]], k, v, (self.window_left, 0), self.how))
        return torch.cat(outs)


class Pages:
    """Sessions of known keys and values, in pages."""

    def __init__(self, block_size: int, seed: int) -> None:
        self.generator, self.size = torch.Generator().manual_seed(seed), block_size
        shape = (NUM_BLOCKS + 2, block_size, KV_HEADS, DIM)
        self.keys, self.values = (torch.randn(shape, generator=self.generator) for _ in range(2))
        self.keys[NULL], self.values[NULL] = 0, 0
        self.free = torch.randperm(NUM_BLOCKS, generator=self.generator).tolist()

    def rows(self, position: int, count: int, first_block: int = 0) -> PagedRows:
        num_blocks = -(-(position + count) // self.size) - first_block
        blocks = [self.free.pop() for _ in range(num_blocks)]
        return PagedRows(blocks=blocks, position=position, count=count, first_block=first_block)

    def want(self, query: torch.Tensor, parts: Sequence[PagedRows], window: Window, how: How) -> torch.Tensor:
        outs, row = [], 0
        for part in parts:
            first, end = part.first_block * self.size, part.position + part.count
            k, v = (store[list(part.blocks)].flatten(0, 1)[: end - first] for store in (self.keys, self.values))
            mask = window.mask(torch.arange(part.position, end), torch.arange(first, end))
            q = query[row : row + part.count]
            out = attend(q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None], mask, how)
            outs.append(out[0].transpose(0, 1))
            row += part.count
        return torch.cat(outs)


class Recorded:
    """A replayable recording of a function's tensor operations."""

    def __init__(self, run: Callable[[], torch.Tensor]) -> None:
        self._graph = make_fx(lambda _: run(), tracing_mode="real")(torch.zeros(1))
        self.out = self._graph(torch.zeros(1))
        self.num_replays = 0

    @torch.no_grad()
    def replay(self) -> None:
        self.out.copy_(self._graph(torch.zeros(1)))
        self.num_replays += 1


class Recorder:
    """Stands in for CudaCapture."""

    def __init__(self) -> None:
        self.graphs: list[Recorded] = []

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(torch, "inference_mode", torch.no_grad)  # in inference mode make_fx records nothing
            run()  # the warm-up
            self.graphs.append(Recorded(run))
        return self.graphs[-1], self.graphs[-1].out


class AwayCopies(PlainCopies):
    """Copies results, as from a device's memory, which later steps overwrite; counts how often the device is idle."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.num_waits = 0

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone(memory_format=torch.contiguous_format)

    def wait(self) -> None:
        self.num_waits += 1
