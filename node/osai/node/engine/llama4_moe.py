"""Llama 4's mixture of experts with only the chosen experts computed.

transformers 5.24 runs every expert on every token and multiplies what the router did not choose by zero: 16 times the
work for Scout, 128 times for Maverick. The unchosen add exact zeros, so leaving them out changes sums by rounding only.
"""

from types import MethodType

import torch
from torch.nn import functional

from osai.node.engine.text_model import TransformersModel

_MOE_CLASS = "Llama4TextMoe"


def install_sparse_experts(model: TransformersModel) -> int:
    """Replace the forward of every Llama 4 mixture of experts in a model; how many there were."""
    modules = [module for module in model.modules() if type(module).__name__ == _MOE_CLASS]
    for module in modules:
        module.forward = MethodType(_sparse_forward, module)
    return len(modules)


def _sparse_forward(self: TransformersModel, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states [1, num_tokens, hidden_size] to outputs [num_tokens, hidden_size] and router logits."""
    hidden = hidden_states.reshape(-1, self.hidden_dim)
    logits = functional.linear(hidden, self.router.weight)  # [num_tokens, num_experts]
    scores, chosen = logits.topk(self.top_k, dim=-1)  # each [num_tokens, top_k]
    weights = torch.sigmoid(scores.float()).to(hidden.dtype)
    scaled = hidden[:, None] * weights[..., None]  # [num_tokens, top_k, hidden_size]
    out: torch.Tensor = self.shared_expert(hidden)
    gate_up, down, act = self.experts.gate_up_proj, self.experts.down_proj, self.experts.act_fn
    for expert in torch.unique(chosen).tolist():
        tokens, ranks = (chosen == expert).nonzero(as_tuple=True)
        gate, up = (scaled[tokens, ranks] @ gate_up[expert]).chunk(2, dim=-1)
        out.index_add_(0, tokens, (up * act(gate)) @ down[expert])
    return out, logits
