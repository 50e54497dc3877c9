"""Fused forms of common modules, each over a few calls of osai's kernels. `fused` decides where they are right."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from osai.node.engine.attention import packed_attention
from osai.node.engine.kernels.library import Kernels
from osai.node.engine.packed_linear import Panels

# How families' norms use their weight: (what is added to it, whether the normed rows are rounded before).
_NORM_KINDS = ((0.0, True), (1.0, False), (0.0, False))


class FusedNorm(nn.Module):
    """Root mean square norm in one pass."""

    def __init__(
        self, weight: nn.Parameter, eps: float, kernels: Kernels, offset: float, *, rounds_first: bool
    ) -> None:
        super().__init__()
        self.weight = weight
        self.eps, self.offset, self.rounds_first, self._kernels = eps, offset, rounds_first, kernels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] to [..., dim]."""
        return self._kernels.norm(x.contiguous(), self.weight, self.eps, self.offset, rounds_first=self.rounds_first)


class FusedMLP(nn.Module):
    """A gated MLP whose gate and up projections are one product.

    Attributes:
        weight_bytes: of that product; `down_proj` counts for itself.
    """

    def __init__(self, mlp: Any, kernels: Kernels) -> None:  # noqa: ANN401  any family's class
        super().__init__()
        self.act_fn, self.down_proj = mlp.act_fn, mlp.down_proj
        self._kernels = kernels
        self.is_silu = "silu" in type(mlp.act_fn).__name__.lower()
        self.gate_up, self.gate_up_bias = _joined(kernels, mlp.gate_proj, mlp.up_proj)
        self.weight_bytes = self.gate_up.weight_bytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] to [..., hidden_size]."""
        both = self.gate_up(x.reshape(-1, x.shape[-1]), self.gate_up_bias)  # [num_rows, 2 * intermediate_size]
        if self.is_silu:
            gated = self._kernels.swiglu(both)
        else:
            gate, up = both.chunk(2, dim=-1)
            gated = self.act_fn(gate) * up
        return self.down_proj(gated.view(*x.shape[:-1], -1))  # type: ignore[no-any-return]


class FusedAttention(nn.Module):
    """Attention with rotary positions whose query, key and value projections are one product.

    Attributes:
        layer_idx: of the layer in its span.
        weight_bytes: of that product; the other parts count for themselves.
    """

    def __init__(self, attention: Any, kernels: Kernels) -> None:  # noqa: ANN401  any family's class
        super().__init__()
        self.layer_idx, self.head_dim = attention.layer_idx, attention.head_dim
        self.scaling: float = attention.scaling
        self.o_proj = attention.o_proj
        self.q_norm, self.k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.how = {
            "softcap": getattr(attention, "attn_logit_softcapping", None),
            "s_aux": getattr(attention, "sinks", None),
        }
        self._kernels = kernels
        self.num_heads = attention.q_proj.out_features // self.head_dim
        self._num_kv_heads = attention.k_proj.out_features // self.head_dim
        self.qkv, self.qkv_bias = _joined(kernels, attention.q_proj, attention.k_proj, attention.v_proj)
        self.weight_bytes = self.qkv.weight_bytes

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        cache: Any = None,  # noqa: ANN401  transformers' Cache or what looks like one
        **_kwargs: object,
    ) -> tuple[torch.Tensor, None]:
        """[1, num_tokens, hidden_size] to the same."""
        num_tokens, dim = hidden_states.shape[1], self.head_dim
        num_turned = self.num_heads + self._num_kv_heads
        qkv = self.qkv(hidden_states[0], self.qkv_bias)  # [num_tokens, (heads + 2 * kv_heads) * dim]
        heads = qkv.view(num_tokens, -1, dim)
        if self.q_norm is not None and self.k_norm is not None:
            heads[:, : self.num_heads] = self.q_norm(heads[:, : self.num_heads])
            heads[:, self.num_heads : num_turned] = self.k_norm(heads[:, self.num_heads : num_turned])
        cos, sin = position_embeddings  # each [1, num_tokens, turned]
        self._kernels.rope(qkv, num_turned, dim, cos[0].contiguous(), sin[0].contiguous())
        by_head = heads.transpose(0, 1)[None]  # [1, heads + 2 * kv_heads, num_tokens, dim]
        sizes = [self.num_heads, self._num_kv_heads, self._num_kv_heads]
        query, key, value = torch.split(by_head, sizes, dim=1)
        key, value = cache.update(key, value, self.layer_idx)
        out, _ = packed_attention(self, query, key, value, None, self.scaling, **self.how)
        return self.o_proj(out.reshape(1, num_tokens, -1)), None


def fused_forms(module: Any, kernels: Kernels) -> Iterator[nn.Module]:  # noqa: ANN401  any family's class
    """What might stand in for a module that looks like a common one, most likely form first."""
    parts = dict(module.named_children())
    if type(module).__name__.endswith("RMSNorm") and getattr(module, "weight", None) is not None:
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if isinstance(eps, float):
            for offset, rounds_first in _NORM_KINDS:
                yield FusedNorm(module.weight, eps, kernels, offset, rounds_first=rounds_first)
    elif _all_plain(parts, kernels, "gate_proj", "up_proj") and {"down_proj", "act_fn"} <= parts.keys():
        yield FusedMLP(module, kernels)
    elif _all_plain(parts, kernels, "q_proj", "k_proj", "v_proj") and {"o_proj"} <= parts.keys():
        yield FusedAttention(module, kernels)


def looks_fusible(module: nn.Module) -> bool:
    """Whether it is worth watching a module for `fused_forms`."""
    names = {name for name, _ in module.named_children()}
    return type(module).__name__.endswith("RMSNorm") or bool(names & {"gate_proj", "q_proj"})


def _all_plain(parts: dict[str, nn.Module], kernels: Kernels, *names: str) -> bool:
    """Whether all of these parts are plain linear layers that the kernel takes as one."""
    linears = [part for name in names if isinstance(part := parts.get(name), nn.Linear)]
    if len(linears) < len(names) or any(type(linear).forward is not nn.Linear.forward for linear in linears):
        return False
    return all(Panels.fit(kernels, linear.weight) for linear in linears)


def _joined(kernels: Kernels, *linears: nn.Linear) -> tuple[Panels, torch.Tensor | None]:
    """Several layers of one input as one."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias for linear in linears if linear.bias is not None]
    return Panels(kernels, weight), torch.cat([bias.detach() for bias in biases]) if biases else None
