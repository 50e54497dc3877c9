"""Times the parts of a span's steps, by hooks around what computes them."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from osai.node.engine import sampling, tail_step
from osai.node.engine.cuda_cache import PagedStepCache
from osai.node.engine.cuda_graphs import GraphedSteps
from osai.node.engine.kernels.library import load_kernels
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.packed_linear import PackedLinear
from osai.node.engine.quantize_int8 import Int8Linear
from osai.node.engine.span_model import SpanModel

_LINEARS = (nn.Linear, PackedLinear, Int8Linear)
_EXPERTS = "Experts"  # in the names of transformers' classes


class PartTimer:
    """Seconds by part. What runs within a part counts for it, whatever it is: experts' linear layers are experts.

    Args:
        synchronize: waits for the device, where it runs behind the host.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._depth, self._start_s = 0, 0.0
        self.seconds: dict[str, float] = defaultdict(float)

    def enter(self) -> None:
        """A part begins, perhaps within another."""
        if self._depth == 0:
            self._synchronize()
            self._start_s = time.perf_counter()
        self._depth += 1

    def leave(self, part: str) -> None:
        """It ends."""
        self._depth -= 1
        if self._depth == 0:
            self._synchronize()
            self.seconds[part] += time.perf_counter() - self._start_s

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, as a part."""

        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            self.enter()
            try:
                return function(*args, **kwargs)
            finally:
                self.leave(part)

        return call


@contextmanager
def timing_parts(span: SpanModel) -> Iterator[PartTimer]:
    """Time what a span's steps do meanwhile, no graphs among them; everything is as before afterwards."""
    on_gpu = span.device.type == "cuda"
    timer = PartTimer((lambda: torch.cuda.synchronize(span.device)) if on_gpu else (lambda: None))
    with ExitStack() as undo:
        for module in span.model.modules():
            if (part := _part_of(module)) is not None:
                undo.callback(module.register_forward_pre_hook(lambda *_: timer.enter()).remove)
                hook = module.register_forward_hook(lambda *_, part=part: timer.leave(part), always_call=True)
                undo.callback(hook.remove)
        for cache in (KVCache, PagedStepCache):
            for name in ("update", "attend"):
                _replace(undo, cache, name, timer.timed(getattr(cache, name), "attention"))
        _replace(undo, KVCache, "rows", lambda *_: None)  # a fused layer is one call: it goes through its parts
        _replace(undo, GraphedSteps, "step", lambda *_: None)  # nothing can be waited for within a graph
        _replace(undo, tail_step, "sample", timer.timed(sampling.sample, "sampling"))
        if (kernels := load_kernels()) is not None:  # fused modules call them without a module between
            _replace(undo, type(kernels), "linear", timer.timed(type(kernels).linear, "linear"))
            _replace(undo, type(kernels), "attend", timer.timed(type(kernels).attend, "attention"))
        yield timer


def _part_of(module: nn.Module) -> str | None:
    if isinstance(module, _LINEARS):
        return "linear"
    return "experts" if _EXPERTS in type(module).__name__ or type(module).__name__ == "Llama4TextMoe" else None


def _replace(undo: ExitStack, owner: Any, name: str, value: object) -> None:  # noqa: ANN401  a class or module
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
