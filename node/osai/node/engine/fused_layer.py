"""A decoder layer as one call."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from osai.node.engine.cpu_attention import QUERIES_AT_ONCE
from osai.node.engine.fused_parts import FusedAttention, FusedMLP, FusedNorm
from osai.node.engine.kernels.library import Kernels
from osai.node.engine.kernels.structures import Attention, LayerArgs, LayerWeights, Linear, Norm
from osai.node.engine.kv_reads import SeenKeys
from osai.node.engine.packed_linear import PackedLinear, Panels

_LINE = 64  # bytes, on whose multiples buffers begin


@dataclass(frozen=True, slots=True)
class LayerRows:
    """Where the rows of a step lie in a layer's pages.

    Attributes:
        slots: int64 [num_rows], where each row's key and value go.
        seen: what each row sees.
        keys: [rows, kv_heads, dim], the pages.
        values: likewise.
    """

    slots: torch.Tensor
    seen: SeenKeys
    keys: torch.Tensor
    values: torch.Tensor


class FusedLayer(nn.Module):
    """A layer of fused parts: norm, attention, norm, gated MLP, each pair's result added to what came in.

    With a cache whose pages the kernels can't use, a step goes through the parts.
    """

    def __init__(self, layer: Any, kernels: Kernels) -> None:  # noqa: ANN401  any family's class
        super().__init__()
        self.layer = layer
        self._kernels = kernels
        attention, mlp = layer.self_attn, layer.mlp
        self._attention: FusedAttention = attention
        self._weights = LayerWeights(
            _norm(layer.input_layernorm),
            _norm(attention.q_norm),
            _norm(attention.k_norm),
            _norm(layer.post_attention_layernorm),
            _linear(attention.qkv, attention.qkv_bias),
            _linear(attention.o_proj.kernel, attention.o_proj.bias),
            _linear(mlp.gate_up, mlp.gate_up_bias),
            _linear(mlp.down_proj.kernel, mlp.down_proj.bias),
        )
        weights = self._weights
        self._wide = max(weights.qkv.out_features, weights.gate_up.out_features)
        self._mixed = max(weights.o.in_features, weights.down.in_features)
        self._inputs = max(self._mixed, weights.qkv.in_features)
        how = attention.how
        self._softcap = how["softcap"] or 0.0
        self._sinks = None if how["s_aux"] is None else how["s_aux"].detach().float()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  decoders ask their layers for this and that
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *args: object,
        position_embeddings: Any = None,  # noqa: ANN401  transformers' own
        cache: Any = None,  # noqa: ANN401
        **kwargs: object,
    ) -> torch.Tensor:
        """[1, num_rows, hidden_size] to the same."""
        lies = getattr(cache, "rows", None)  # caches of other kinds have none
        rows = None if lies is None else lies(self._attention.layer_idx)
        if rows is None:
            out: torch.Tensor = self.layer(
                hidden_states, *args, position_embeddings=position_embeddings, cache=cache, **kwargs
            )
            return out
        hidden = hidden_states[0].clone()
        cos, sin = (part[0].contiguous() for part in position_embeddings)  # each [num_rows, turned]
        self._run(hidden, cos, sin, rows)
        return hidden[None]

    def _run(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rows: LayerRows) -> None:
        num_rows, hidden_size = hidden.shape
        seen, kv_heads, dim = rows.seen, rows.keys.shape[1], rows.keys.shape[2]
        max_keys = seen.max_count
        sizes = [
            _lines(num_rows * width * hidden.itemsize) for width in (hidden_size, self._wide, self._mixed, self._inputs)
        ]
        scores = self._kernels.num_threads * QUERIES_AT_ONCE * max_keys * 4
        room = torch.empty(sum(sizes) + scores, dtype=torch.uint8)
        normed = room.data_ptr()
        wide = normed + sizes[0]
        mixed = wide + sizes[1]
        tiles = mixed + sizes[2]
        scratch = tiles + sizes[3]
        attends = self._attention
        attention = Attention(
            None, rows.keys.data_ptr(), rows.values.data_ptr(), None,
            seen.slots.data_ptr(), seen.begins.data_ptr(), seen.ends.data_ptr(),
            None if self._sinks is None else self._sinks.data_ptr(), scratch,
            num_rows, attends.num_heads, kv_heads, dim, dim, 0, max_keys, attends.scaling, self._softcap,
        )  # fmt: skip
        args = LayerArgs(
            attention, hidden.data_ptr(), normed, wide, mixed, tiles, cos.data_ptr(), sin.data_ptr(),
            rows.slots.data_ptr(), num_rows, cos.shape[1] // 2, self._kernels.num_threads,
        )  # fmt: skip
        self._kernels.layer(hidden.dtype, self._weights, args)


def looks_like_layer(module: nn.Module) -> bool:
    """Whether it is worth watching a module for `fused_layers`."""
    return {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"} <= {
        n for n, _ in module.named_children()
    }


def fused_layers(layer: Any, kernels: Kernels) -> Iterator[FusedLayer]:  # noqa: ANN401  any family's class
    """What might stand in for a layer, once its parts are fused."""
    if not looks_like_layer(layer):
        return
    attention, mlp = layer.self_attn, layer.mlp
    if not isinstance(attention, FusedAttention) or not isinstance(mlp, FusedMLP) or not mlp.is_silu:
        return
    norms = (layer.input_layernorm, layer.post_attention_layernorm, attention.q_norm, attention.k_norm)
    if not all(norm is None or isinstance(norm, FusedNorm) for norm in norms):
        return
    attention.o_proj, mlp.down_proj = (_packed(part, kernels) for part in (attention.o_proj, mlp.down_proj))
    if all(
        isinstance(part, PackedLinear) and isinstance(part.kernel, Panels) for part in (attention.o_proj, mlp.down_proj)
    ):
        yield FusedLayer(layer, kernels)


def _packed(linear: nn.Module, kernels: Kernels) -> nn.Module:
    if type(linear) is nn.Linear and Panels.fit(kernels, linear.weight, linear.out_features):
        return PackedLinear(linear, kernels)
    return linear


def _lines(num_bytes: int) -> int:
    return -(-num_bytes // _LINE) * _LINE


def _norm(norm: FusedNorm | None) -> Norm:
    return Norm() if norm is None else Norm(norm.weight.data_ptr(), norm.eps, norm.offset, norm.rounds_first)


def _linear(panels: Panels, bias: torch.Tensor | None) -> Linear:
    return Linear(
        panels.panels.data_ptr(), None if bias is None else bias.data_ptr(), panels.out_features, panels.in_features
    )
