"""Llama 4's mixture of experts with only the chosen experts computed.

transformers 5.24 runs every expert on every token and multiplies what the router did not choose by zero: 16 times the
work for Scout, 128 times for Maverick. The unchosen add exact zeros, so leaving them out changes sums by rounding only.
"""

from types import MethodType

import torch
from torch.nn import functional

from osai.node.engine.text_model import TransformersModel

_MOE_CLASS = "Llama4TextMoe"


def install_sparse_experts(model: TransformersModel) -> list[TransformersModel]:
    """Replace the forward of every Llama 4 mixture of experts in a model; those that there were."""
    modules = [module for module in model.modules() if type(module).__name__ == _MOE_CLASS]
    for module in modules:
        module.forward = MethodType(_sparse_forward, module)
        module.router.forward = MethodType(_route, module.router)
    return modules


def _sparse_forward(self: TransformersModel, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [1, num_tokens, hidden_size] to outputs [num_tokens, hidden_size] and router logits."""
    hidden = hidden_states.reshape(-1, self.hidden_dim)
    logits, weights, chosen = self.router(hidden)
    experts, order = chosen.reshape(-1).sort(stable=True)  # each [num_pairs]
    scaled = (hidden[order // self.top_k] * weights.reshape(-1)[order, None]).contiguous()  # by expert
    routed = _by_linears if hasattr(self.experts, "osai_linears") else _by_groups
    outs = torch.empty_like(scaled)
    outs[order] = routed(self.experts, scaled, experts)
    out: torch.Tensor = self.shared_expert(hidden)
    for rank in outs.view(-1, self.top_k, self.hidden_dim).unbind(1):
        out += rank
    return out, logits


def _route(self: TransformersModel, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [num_tokens, hidden_size] to logits [num_tokens, num_experts], weights and experts of the chosen.

    The latter are [num_tokens, top_k] each; transformers' router fills in the weights of all others.
    """
    logits = functional.linear(hidden, self.weight)
    scores, chosen = logits.topk(self.top_k, dim=-1)
    return logits, torch.sigmoid(scores.float()).to(hidden.dtype), chosen


def _by_linears(experts: TransformersModel, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Rows [num_pairs, hidden_size], of experts in rising order, through linear layers of the experts' own."""
    linears = experts.osai_linears
    numbers, counts = torch.unique_consecutive(ids, return_counts=True)
    outs = []
    for expert, part in zip(numbers.tolist(), torch.split(rows, counts.tolist()), strict=True):
        gate, up = linears.first[expert](part).chunk(2, dim=-1)
        outs.append(linears.last[expert](up * experts.act_fn(gate)))
    return torch.cat(outs) if outs else rows


def _by_groups(experts: TransformersModel, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """As `_by_linears`, by one kernel for all experts and without a word to the host: it can be captured in a graph."""
    num_experts = experts.gate_up_proj.shape[0]
    numbers = torch.arange(num_experts, device=ids.device)
    ends = torch.searchsorted(ids, numbers, right=True).to(torch.int32)  # [num_experts], of each expert's rows
    gate, up = functional.grouped_mm(rows, experts.gate_up_proj, offs=ends).chunk(2, dim=-1)
    return functional.grouped_mm((up * experts.act_fn(gate)).contiguous(), experts.down_proj, offs=ends)
