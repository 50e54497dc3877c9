"""Puts fused forms in place of common modules: root mean square norms, gated MLPs, rotary attention.

A decode step on a CPU that reads its weights at the memory's speed would else spend a third of its time on the many
small operators between the linear layers. No family is named: a module is replaced if it has the parts of the common
form, and if the fused form gives the same results on what the module got in one step of this very span.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from osai.node.engine.attention import Binding, How, attend, install
from osai.node.engine.fused_layer import LayerRows
from osai.node.engine.fused_parts import fused_forms, looks_fusible
from osai.node.engine.fused_run import fused_layers, link, looks_like_layer, runs_of
from osai.node.engine.kernels.library import Kernels
from osai.node.engine.kv_reads import SeenKeys

if TYPE_CHECKING:
    from osai.node.engine.span_model import SpanModel

_log = logging.getLogger(__name__)

_POSITIONS = (0, 1, 5, 30)  # of the rows of the step that is watched: rotary positions must differ
# Of the largest number of a result: float32 sums in another order; in bfloat16 a rounding step of the parts.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
# What making or calling a fused form raises where the original only looks like the common one.
_NOT_ALIKE = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class _Call:
    """What a module got and gave: the tensor itself, and a copy of what was in it."""

    args: tuple[object, ...]
    kwargs: dict[str, object]
    given: torch.Tensor
    result: torch.Tensor


class _Passing:
    """Stands in for the cache: keeps nothing; every row sees all rows."""

    is_compileable = False

    def __init__(self) -> None:
        self._like: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._like[layer_idx] = (key, value)
        return key, value

    def rows(self, layer_idx: int) -> LayerRows | None:
        """Pages of a layer that has been through `update`, for as many rows."""
        if layer_idx not in self._like:
            return None
        keys, values = (torch.zeros_like(t[0].transpose(0, 1)).contiguous() for t in self._like[layer_idx])
        count, slots = len(keys), torch.arange(len(keys))
        seen = SeenKeys(slots, torch.zeros_like(slots), torch.full_like(slots, count), count)
        return LayerRows(slots, seen, keys, values)

    def attend(
        self, _layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How
    ) -> torch.Tensor:
        return attend(query, key, value, None, how)

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        return 0

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, _layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0


def fuse(span: "SpanModel", kernels: Kernels) -> int:
    """Replace what can be, in a span whose linear layers are still plain; how many modules were."""
    binding, passing = install(span), _Passing()
    places = list(_places(span.decoder, kernels))
    binding.cache = passing
    try:
        with torch.inference_mode():
            with _watching([child for _, _, child in places]) as calls:
                try:
                    _run(span, passing)
                except _NOT_ALIKE as e:  # layers that cache something else: whoever hosts the span refuses them
                    _log.debug("%s is not fused: %r", type(span.decoder).__name__, e)
                    return 0
            replaced, runs = 0, runs_of(places, calls)
            while places:  # nothing may keep a module that has been replaced: its weights would be there twice
                replaced += _replace(*places.pop(), binding, kernels, calls)
            link(runs, lambda: _run(span, passing))
            return replaced
    finally:
        binding.cache = None


def _places(decoder: nn.Module, kernels: Kernels) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, child) of modules that may have a fused form, outermost first: a layer is made of others."""
    for parent in list(decoder.modules()):
        for name, child in parent.named_children():
            parameter = next(child.parameters(), None)
            if (
                parameter is not None
                and kernels.can(parameter.dtype)
                and (looks_fusible(child) or looks_like_layer(child))
            ):
                yield parent, name, child


def _run(span: "SpanModel", passing: _Passing) -> torch.Tensor:
    """What one step of a few rows that differ gives."""
    positions = torch.tensor([_POSITIONS])
    ids = torch.tensor([_POSITIONS]) % span.vocab_size
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, len(_POSITIONS), span.hidden_size, generator=generator).to(span.dtype)
    return span.forward(ids if span.is_head else hidden, passing, positions, torch.arange(1))


@contextmanager
def _watching(modules: list[nn.Module]) -> Iterator[dict[nn.Module, _Call]]:
    """The last call of each module that gives a tensor, or a tuple that begins with one."""
    calls: dict[nn.Module, _Call] = {}

    def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], result: object) -> None:
        first = _first(result)
        if first is not None:
            calls[module] = _Call(args, dict(kwargs), first, first.clone())

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _replace(
    parent: nn.Module, name: str, child: nn.Module, binding: Binding, kernels: Kernels, calls: dict[nn.Module, _Call]
) -> bool:
    call = calls.pop(child, None)
    if call is None:
        return False
    try:
        for fused in (*fused_forms(child, kernels), *fused_layers(child, kernels)):
            binding.bind(fused)
            if _agrees(fused, call):
                setattr(parent, name, fused)
                return True
    except _NOT_ALIKE as e:
        _log.debug("%s has no fused form here: %r", type(child).__name__, e)
    return False


def _agrees(fused: nn.Module, call: _Call) -> bool:
    """Whether a fused form does as its original did."""
    got, want = _first(fused(*call.args, **call.kwargs)), call.result
    if got is None or got.shape != want.shape or got.dtype != want.dtype:
        return False
    allowed = _TOLERANCE[want.dtype] * float(want.abs().max())
    return float((got.float() - want.float()).abs().max()) <= allowed


def _first(result: object) -> torch.Tensor | None:
    first = result[0] if isinstance(result, tuple) and result else result
    return first if isinstance(first, torch.Tensor) else None
