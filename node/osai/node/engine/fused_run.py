"""Which layers have a fused form, and which of these run in one call.

The latter are those of which each gets what the one before it gave, and nothing else new. That is seen in a watched
step of the span itself, and kept only if the span then gives the very same numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from osai.node.engine.fused_layer import FusedLayer
from osai.node.engine.fused_parts import FusedAttention, FusedMLP, FusedNorm
from osai.node.engine.kernels.library import Kernels
from osai.node.engine.packed_linear import PackedLinear, Panels

Place = tuple[nn.Module, str]  # parent, name


class Call(Protocol):
    """What a module got and gave; `given` is the very tensor, `result` what was in it then."""

    @property
    def args(self) -> tuple[object, ...]: ...  # noqa: D102
    @property
    def kwargs(self) -> dict[str, object]: ...  # noqa: D102
    @property
    def given(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def result(self) -> torch.Tensor: ...  # noqa: D102


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
    if type(linear) is nn.Linear and Panels.fit(kernels, linear.weight):
        return PackedLinear(linear, kernels)
    return linear


def runs_of(
    places: Sequence[tuple[nn.Module, str, nn.Module]], calls: Mapping[nn.Module, Call]
) -> list[tuple[Place, ...]]:
    """Places of layers that follow each other, in runs of two and more."""
    layers = [(place, calls[place[2]]) for place in places if looks_like_layer(place[2]) and place[2] in calls]
    runs: list[list[Place]] = []
    before: Call | None = None
    for (parent, name, _), call in layers:
        if before is None or not _follows(before, call):
            runs.append([])
        runs[-1].append((parent, name))
        before = call
    return [tuple(run) for run in runs if len(run) > 1]


def link(runs: Sequence[tuple[Place, ...]], forward: Callable[[], torch.Tensor]) -> int:
    """Let runs of layers that have become fused run in one call, if `forward` stays the same; how many layers do."""
    heads = [(layers[0], layers[1:]) for run in runs for layers in _fused(run)]
    if not heads:
        return 0
    want = forward()
    for head, others in heads:
        head.lead(others)
    if torch.equal(forward(), want):
        return sum(1 + len(others) for _, others in heads)
    for head, _ in heads:
        head.lead(())
    return 0


def _follows(before: Call, call: Call) -> bool:
    if not call.args or call.args[0] is not before.given or not torch.equal(before.given, before.result):
        return False  # another tensor, or the same one changed
    ours, theirs = before.kwargs.get("position_embeddings"), call.kwargs.get("position_embeddings")
    if not isinstance(ours, tuple) or not isinstance(theirs, tuple) or len(ours) != len(theirs):
        return False
    return all(a is b for a, b in zip(ours, theirs, strict=True))


def _fused(run: Sequence[Place]) -> Iterator[list[FusedLayer]]:
    """The stretches of a run that are fused layers, of two and more."""
    stretch: list[FusedLayer] = []
    for parent, name in run:
        layer = getattr(parent, name)
        if isinstance(layer, FusedLayer):
            stretch.append(layer)
            continue
        if len(stretch) > 1:
            yield stretch
        stretch = []
    if len(stretch) > 1:
        yield stretch
