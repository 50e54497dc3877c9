"""How the experts of a mixture are computed: only those that a token was sent to, and never by `batched_mm`.

transformers knows several ways. Its `batched_mm` copies the weights of every chosen expert for every token. Its
`grouped_mm`, and its loops, read weights on a CPU at a quarter of the memory's speed. So on a CPU each expert becomes
two linear layers of its own, packed as other linear layers are: a decode step's experts take a half to a seventh of the
time. On a GPU `grouped_mm` is one kernel for all experts.
"""

from collections.abc import Iterator
from types import MethodType

import torch
from torch import nn

from osai.node.engine.kernels.library import Kernels
from osai.node.engine.llama4_moe import install_sparse_experts
from osai.node.engine.packed_linear import pack_linears
from osai.node.engine.routers import install_blocks
from osai.node.engine.text_model import TransformersModel

GROUPED = "grouped_mm"
_LINEARS = "osai_linears"


class ExpertLinears(nn.Module):
    """One module's experts, each with linear layers of its own."""

    def __init__(self, experts: TransformersModel, kernels: Kernels | None, *, is_transposed: bool) -> None:
        super().__init__()
        self.first = _split(experts, _first_name(experts), kernels, is_transposed=is_transposed)
        self.last = _split(experts, "down_proj", kernels, is_transposed=is_transposed)


def install_experts(
    model: TransformersModel, config: TransformersModel, kernels: Kernels | None, *, split: bool
) -> int:
    """Choose how a model's experts are computed; how many mixtures there are.

    Args:
        model: whose.
        config: its configuration, by which transformers' own experts choose their way.
        kernels: for packing the linear layers.
        split: whether to give experts linear layers of their own and to run routers in blocks, which is for the CPU.
    """
    config._experts_implementation = GROUPED  # noqa: SLF001  the setter is public in all but its name
    fused = list(_fused_experts(model))
    for experts in fused if split else ():
        setattr(experts, _LINEARS, ExpertLinears(experts, kernels, is_transposed=experts.is_transposed))
        experts.forward = MethodType(_forward, experts)
    sparse = install_sparse_experts(model)
    for moe in sparse if split else ():
        setattr(moe.experts, _LINEARS, ExpertLinears(moe.experts, kernels, is_transposed=True))
    if split:
        install_blocks(model)
    return len(fused) + len(sparse)


def by_expert(expert_ids: torch.Tensor) -> tuple[torch.Tensor | None, list[int], list[int]]:
    """Sort pairs of token and expert by expert.

    Args:
        expert_ids: int64 [num_pairs].

    Returns:
        The order, int64 [num_pairs], None if they are in order; which experts; how many pairs each has.
    """
    ids = expert_ids.tolist()
    if len(set(ids)) == len(ids):  # a single token: any order will do
        return None, ids, [1] * len(ids)
    ordered, order = expert_ids.sort(stable=True)
    experts, counts = torch.unique_consecutive(ordered, return_counts=True)
    return order, experts.tolist(), counts.tolist()


def _forward(
    self: TransformersModel, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """What transformers' `grouped_mm_experts_forward` does, over linear layers.

    Hidden states [num_tokens, hidden_size], each token's experts int64 [num_tokens, top_k] and their weights
    [num_tokens, top_k] to [num_tokens, hidden_size].
    """
    num_tokens, top_k = top_k_index.shape
    order, experts, counts = by_expert(top_k_index.reshape(-1))
    pairs = torch.arange(num_tokens * top_k) if order is None else order
    rows = hidden_states[pairs // top_k]  # [num_pairs, hidden_size], by expert
    linears: ExpertLinears = getattr(self, _LINEARS)
    outs = []
    for expert, part in zip(experts, torch.split(rows, counts), strict=True):
        inner = linears.first[expert](part)
        outs.append(linears.last[expert](self._apply_gate(inner) if self.has_gate else self.act_fn(inner)))
    out = torch.cat(outs) if outs else rows
    if self.has_post_expert_norm:
        out = self.post_expert_norm(out)
    weighted = out * top_k_weights.reshape(-1)[pairs, None]
    if order is not None:
        weighted = torch.empty_like(weighted).index_copy_(0, order, weighted)
    return weighted.view(num_tokens, top_k, -1).sum(dim=1).to(hidden_states.dtype)


def _fused_experts(model: TransformersModel) -> Iterator[TransformersModel]:
    """Modules that hold all experts' weights in two tensors and are called as transformers' experts interface says."""
    for module in model.modules():
        if hasattr(module, "is_transposed") and hasattr(module, "has_gate") and hasattr(module, "down_proj"):
            yield module


def _first_name(experts: TransformersModel) -> str:
    return "gate_up_proj" if getattr(experts, "has_gate", True) else "up_proj"


def _split(experts: TransformersModel, name: str, kernels: Kernels | None, *, is_transposed: bool) -> nn.ModuleList:
    """Linear layers of a fused tensor [num_experts, out, in] (or [.., in, out]), which is dropped, and of its bias."""
    fused, bias = getattr(experts, name).detach(), getattr(experts, f"{name}_bias", None)
    weights = fused.transpose(1, 2) if is_transposed else fused
    linears = nn.ModuleList()
    for i, weight in enumerate(weights):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias[i].detach(), requires_grad=False)
        linears.append(linear)
        pack_linears(linears, kernels)  # one by one, so that no more than one weight lies in memory twice
    delattr(experts, name)
    return linears
