"""FlashInfer's kernels over KV pages. Written against flashinfer-python 0.7; imported only where it is installed."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from osai.node.engine.attention import How
from osai.node.engine.cuda_attention import BackendName
from osai.node.engine.cuda_pages import PagedPlan
from osai.node.engine.windows import Window

_WORKSPACE_BYTES = 128 << 20  # what FlashInfer recommends


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layers:
    """What layers must share to share a wrapper's plan."""

    num_heads: int
    num_kv_heads: int
    dim: int
    dtype: torch.dtype
    scaling: float
    softcap: float | None
    window_left: int


@dataclass(slots=True)
class _Planned:
    """A wrapper and the plan that it was last told; `version` counts the plan's fillings."""

    wrapper: Any
    version: int


class FlashInferAttention:
    """Wrappers by plan and kind of layer. The kinds are learnt from the first step that is not captured.

    A fixed plan keeps its wrappers, whose buffers its graph reads; those of other plans live as long as the step.

    Args:
        flashinfer: the module.
        device: the GPU.
    """

    name: BackendName = "flashinfer"
    capturable = True

    def __init__(self, flashinfer: Any, device: torch.device) -> None:  # noqa: ANN401  it has no types
        self._flashinfer = flashinfer
        self._workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._fixed: dict[PagedPlan, dict[_Layers, _Planned]] = {}
        self._passing: tuple[PagedPlan, int, dict[_Layers, _Planned]] | None = None

    def prepare(self, plan: PagedPlan) -> None:
        """Tell every wrapper of a fixed plan what is in it now: a captured step can't do so itself."""
        for layers, planned in self._fixed.get(plan, {}).items():
            self._tell(planned, plan, layers)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: PagedPlan, window: Window, how: How
    ) -> torch.Tensor:
        """See PagedAttention."""
        layers = _Layers(
            num_heads=query.shape[1],
            num_kv_heads=keys.shape[2],
            dim=query.shape[2],
            dtype=query.dtype,
            scaling=how.scaling,
            softcap=how.softcap,
            window_left=window.size - 1 if window.kind == "sliding" else -1,
        )
        known = self._known(plan)
        if layers not in known:
            known[layers] = _Planned(self._wrapper(plan), -1)
        planned = known[layers]
        if planned.version != plan.version:
            self._tell(planned, plan, layers)
        out: torch.Tensor = planned.wrapper.run(query, (keys, values))
        return out

    def _known(self, plan: PagedPlan) -> dict[_Layers, _Planned]:
        if plan.is_fixed:
            return self._fixed.setdefault(plan, {})
        if self._passing is None or self._passing[0] is not plan or self._passing[1] != plan.version:
            self._passing = (plan, plan.version, {})
        return self._passing[2]

    def _wrapper(self, plan: PagedPlan) -> Any:  # noqa: ANN401
        make = self._flashinfer.BatchPrefillWithPagedKVCacheWrapper
        if not plan.is_fixed:
            return make(self._workspace, "NHD")
        parts = plan.sizes.num_parts
        return make(
            self._workspace,  # shared: layers and graphs run one after the other
            "NHD",
            use_cuda_graph=True,
            qo_indptr_buf=self._ints(parts + 1),
            paged_kv_indptr_buf=self._ints(parts + 1),
            paged_kv_indices_buf=self._ints(parts * plan.sizes.num_blocks),
            paged_kv_last_page_len_buf=self._ints(parts),
        )

    def _ints(self, count: int) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.int32, device=self._workspace.device)

    def _tell(self, planned: _Planned, plan: PagedPlan, layers: _Layers) -> None:
        """Plan a wrapper. FlashInfer schedules on the host, from tensors on the host."""
        size = plan.block_size
        num_pages = [math.ceil(count / size) for count in plan.key_counts]
        pages = [block for table, n in zip(plan.host_tables, num_pages, strict=True) for block in table[:n]]
        page_starts = torch.tensor([0, *num_pages], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        planned.wrapper.plan(
            torch.tensor([0, *plan.counts], dtype=torch.int32).cumsum(0, dtype=torch.int32),
            page_starts,
            torch.tensor(pages, dtype=torch.int32),
            torch.tensor([(count - 1) % size + 1 for count in plan.key_counts], dtype=torch.int32),
            layers.num_heads,
            layers.num_kv_heads,
            layers.dim,
            size,
            causal=True,
            sm_scale=layers.scaling,
            window_left=layers.window_left,
            logits_soft_cap=layers.softcap,
            q_data_type=layers.dtype,
            kv_data_type=layers.dtype,
        )
        planned.version = plan.version
