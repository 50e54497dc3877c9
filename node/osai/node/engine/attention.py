"""Attention over paged keys and values, called by transformers' layers in place of its own.

A name in transformers' attention registry for which there is no mask function makes the models build no masks. The
function registered finds its cache through the binding that `install` puts on the attention modules.
"""

from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

from osai.core.errors import InternalError, UnknownModelError
from osai.node.engine.text_model import TransformersModel

if TYPE_CHECKING:
    from osai.node.engine.span_model import SpanModel

IMPLEMENTATION = "osai_packed"
_BINDING = "osai_binding"


class AttentionCache(Protocol):
    """What the attention function needs of a cache."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: "How"
    ) -> torch.Tensor:
        """Attention of a packed row: [1, heads, num_tokens, query_dim] to [1, heads, num_tokens, value_dim]."""
        ...


@dataclass(slots=True)
class Binding:
    """Ties the attention modules of one span to the cache of the step in hand."""

    cache: AttentionCache | None = None

    def bind(self, module: nn.Module) -> None:
        """Tie a module; if it attends, it finds its cache here."""
        setattr(module, _BINDING, self)


@dataclass(frozen=True, slots=True)
class How:
    """What families do to attention scores.

    Attributes:
        scaling: factor of the scores.
        softcap: bound of the scores, by tanh; None for none.
        sinks: [heads], a score of each head that takes part in the softmax and has no value; None for none.
    """

    scaling: float
    softcap: float | None = None
    sinks: torch.Tensor | None = None


def install(span: "SpanModel") -> Binding:
    """Make a span's layers use this attention, and give the binding through which it finds its cache.

    Raises:
        UnknownModelError: if the family's attention is of a kind that this one does not cover.
    """
    binding = Binding()
    span.config._attn_implementation_internal = IMPLEMENTATION  # noqa: SLF001  its setter knows no new names
    for module in span.decoder.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            binding.bind(module)
        if type(module).__name__ == "FalconAttention":
            if span.config.alibi:
                raise UnknownModelError("Falcon models with alibi positions are not served; those with rope are")
            module.forward = MethodType(_falcon_forward, module)
    return binding


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_kwargs: object,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query [1, heads, num_tokens, dim] to [1, num_tokens, heads, value_dim]."""
    if attention_mask is not None or position_bias is not None:
        raise UnknownModelError(f"{type(module).__name__} needs masks or position biases of its own: it is not served")
    binding: Binding = getattr(module, _BINDING)
    if binding.cache is None:
        raise InternalError("attention was called outside a step")
    layer = module.layer_idx
    how = How(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    return binding.cache.attend(layer, query, key, value, how).transpose(1, 2), None  # type: ignore[arg-type]


AttentionInterface.register(IMPLEMENTATION, packed_attention)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    how: How,
    *,
    is_causal: bool = False,
) -> torch.Tensor:
    """Attention with as many key heads as divide the query heads.

    Args:
        query: [batch, heads, num_queries, dim].
        key: [batch, kv_heads, num_keys, dim].
        value: [batch, kv_heads, num_keys, value_dim].
        mask: bool, to broadcast to [batch, heads, num_queries, num_keys], or None.
        how: what the family does to the scores.
        is_causal: query i sees keys 0 to i.

    Returns:
        [batch, heads, num_queries, value_dim].
    """
    if how.softcap is not None or how.sinks is not None:
        return _attend_in_steps(query, key, value, mask, how, is_causal=is_causal)
    batch, heads, num_queries, _ = query.shape
    groups = heads // key.shape[1]
    if groups > 1 and num_queries == 1:  # the query heads of a group become rows: keys need no copy
        query = query.reshape(batch, key.shape[1], groups, -1)
        out = functional.scaled_dot_product_attention(query, key, value, mask, scale=how.scaling)
        return out.reshape(batch, heads, 1, -1)
    return functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=is_causal, scale=how.scaling, enable_gqa=groups > 1
    )


def _attend_in_steps(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, how: How, *, is_causal: bool
) -> torch.Tensor:
    """The arithmetic of transformers' eager attention, for what torch's fused one can't do."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if is_causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(2, 3) * how.scaling  # [batch, heads, num_queries, num_keys]
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if how.sinks is None:
        return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value  # as gemma2 does
    sinks = how.sinks.view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
    scores = torch.cat([scores, sinks], -1)
    scores = scores - scores.amax(-1, keepdim=True)  # as gpt_oss does, against overflow in bf16
    return scores.softmax(-1)[..., :-1].to(query.dtype) @ value


def _falcon_forward(
    self: TransformersModel,
    hidden_states: torch.Tensor,
    *_args: object,
    layer_past: TransformersModel = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_kwargs: object,
) -> tuple[torch.Tensor, None]:
    """FalconAttention's arithmetic through the registry, which its own forward goes past."""
    # each [1, num_tokens, heads, head_dim] to [1, heads, num_tokens, head_dim]
    query, key, value = (t.transpose(1, 2) for t in self._split_heads(self.query_key_value(hidden_states)))
    query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    if self.new_decoder_architecture:  # _split_heads repeats the shared heads: keep one of each group
        groups = self.num_heads // self.num_kv_heads
        key, value = key[:, ::groups], value[:, ::groups]
    layer_past.update(key, value, self.layer_idx)
    out, _ = packed_attention(self, query, key, value, None)
    return self.dense(out.reshape(*hidden_states.shape[:2], -1)), None
