"""Decoder layers as one call."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from osai.core.errors import InternalError
from osai.node.engine.cpu_attention import QUERIES_AT_ONCE
from osai.node.engine.fused_parts import FusedAttention, FusedNorm
from osai.node.engine.kernels.library import Kernels
from osai.node.engine.kernels.structures import Attention, LayerArgs, LayerWeights, Linear, Norm
from osai.node.engine.kv_reads import SeenKeys
from osai.node.engine.packed_linear import Panels, lay_together

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


@dataclass(slots=True)
class _Ahead:
    """What layers that run in one call share: the result of them all, until the last one has passed it on."""

    result: torch.Tensor | None = None


class FusedLayer(nn.Module):
    """A layer of fused parts: norm, attention, norm, gated MLP, each pair's result added to what came in.

    It may lead others, whose work it then does in the same call; they pass its result on. With a cache whose pages the
    kernels can't use, a step goes through the parts of each.
    """

    def __init__(self, layer: Any, kernels: Kernels) -> None:  # noqa: ANN401  any family's class
        super().__init__()
        self.layer = layer
        self._kernels = kernels
        attention, mlp = layer.self_attn, layer.mlp
        self._attention: FusedAttention = attention
        lay_together(attention.qkv, attention.o_proj.kernel, mlp.gate_up, mlp.down_proj.kernel)
        self.weights = LayerWeights(
            _norm(layer.input_layernorm),
            _norm(attention.q_norm),
            _norm(attention.k_norm),
            _norm(layer.post_attention_layernorm),
            _linear(attention.qkv, attention.qkv_bias),
            _linear(attention.o_proj.kernel, attention.o_proj.bias),
            _linear(mlp.gate_up, mlp.gate_up_bias),
            _linear(mlp.down_proj.kernel, mlp.down_proj.bias),
        )
        weights = self.weights
        mixed = max(weights.o.in_features, weights.down.in_features)
        wide = max(weights.qkv.out_features, weights.gate_up.out_features)
        self.widths = (wide, mixed, max(mixed, weights.qkv.in_features))  # of a row in the buffers of LayerArgs
        how = attention.how
        self._softcap = how["softcap"] or 0.0
        self._sinks = None if how["s_aux"] is None else how["s_aux"].detach().float()
        self._ahead, self.is_last = _Ahead(), False
        self.leader: _Ahead | None = None
        self._others: tuple[FusedLayer, ...] = ()
        self.lead(())

    def lead(self, others: Sequence["FusedLayer"]) -> None:
        """Do the work of these layers too, which come next, in place of those led so far."""
        for other in self._others:
            other.leader = None
        self._others = tuple(others)  # a tuple: they are no modules of this one
        for other in others:
            other.leader, other.is_last = self._ahead, other is others[-1]
        layers = (self, *others)
        self._run_weights = (ctypes.c_void_p * len(layers))(*(ctypes.addressof(layer.weights) for layer in layers))

    @property
    def num_led(self) -> int:
        """How many layers' work it does besides its own."""
        return len(self._others)

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
        if self.leader is not None and self.leader.result is not None:
            return self._pass_on(hidden_states, self.leader)
        self._ahead.result = None
        lies = getattr(cache, "rows", None)  # caches of other kinds have none
        rows = [] if lies is None else [lies(layer.self_attn.layer_idx) for layer in (self, *self._others)]
        if not rows or any(row is None for row in rows):
            out: torch.Tensor = self.layer(
                hidden_states, *args, position_embeddings=position_embeddings, cache=cache, **kwargs
            )
            return out
        hidden = hidden_states[0].clone()
        cos, sin = (part[0].contiguous() for part in position_embeddings)  # each [num_rows, turned]
        self._run(hidden, cos, sin, rows)
        result = hidden[None]
        if self._others:
            self._ahead.result = result
        return result

    def _pass_on(self, hidden_states: torch.Tensor, leader: _Ahead) -> torch.Tensor:
        if hidden_states is not leader.result:
            raise InternalError("a layer's work was done ahead, on other hidden states than it got")
        if self.is_last:
            leader.result = None
        return hidden_states

    def _run(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rows: Sequence[LayerRows]) -> None:
        num_rows, hidden_size = hidden.shape
        layers = (self, *self._others)
        widths = (hidden_size, *(max(sizes) for sizes in zip(*(layer.widths for layer in layers), strict=True)))
        sizes = [_lines(num_rows * width * hidden.itemsize) for width in widths]
        scores = self._kernels.num_threads * QUERIES_AT_ONCE * max(row.seen.max_count for row in rows) * 4
        room = torch.empty(sum(sizes) + scores, dtype=torch.uint8)
        places = list(accumulate(sizes, initial=room.data_ptr()))  # normed, wide, mixed, tiles, scratch
        step = (hidden.data_ptr(), *places[:4], cos.data_ptr(), sin.data_ptr())
        ends = (num_rows, cos.shape[1] // 2, self._kernels.num_threads)
        args = (LayerArgs * len(layers))(
            *(
                LayerArgs(layer.attention_of(row, num_rows, places[4]), *step, row.slots.data_ptr(), *ends)
                for layer, row in zip(layers, rows, strict=True)
            )
        )
        self._kernels.layers(hidden.dtype, self._run_weights, args)

    def attention_of(self, rows: LayerRows, num_rows: int, scratch: int) -> Attention:
        """What the kernel wants to know of this layer's attention in a step."""
        seen, attends = rows.seen, self._attention
        kv_heads, dim = rows.keys.shape[1:]
        return Attention(
            None, rows.keys.data_ptr(), rows.values.data_ptr(), None,
            seen.slots.data_ptr(), seen.begins.data_ptr(), seen.ends.data_ptr(),
            None if self._sinks is None else self._sinks.data_ptr(), scratch,
            num_rows, attends.num_heads, kv_heads, dim, dim, 0, seen.max_count, attends.scaling, self._softcap,
        )  # fmt: skip


def _lines(num_bytes: int) -> int:
    return -(-num_bytes // _LINE) * _LINE


def _norm(norm: FusedNorm | None) -> Norm:
    return Norm() if norm is None else Norm(norm.weight.data_ptr(), norm.eps, norm.offset, norm.rounds_first)


def _linear(panels: Panels, bias: torch.Tensor | None) -> Linear:
    return Linear(
        panels.panels.data_ptr(), None if bias is None else bias.data_ptr(), panels.out_features, panels.in_features
    )
