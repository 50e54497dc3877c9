"""How the forward of a step runs on a device."""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import torch

from osai.node.engine.attention import Binding
from osai.node.engine.cuda_capture import CudaCapture
from osai.node.engine.cuda_copies import Copies, copies_for
from osai.node.engine.cuda_runner import PagedRunner
from osai.node.engine.kv_cache import KVCache
from osai.node.engine.kv_plan import LayerShape
from osai.node.engine.layout import Part
from osai.node.engine.packed_step import run_packed_step
from osai.node.engine.span_model import SpanModel

RunnerKind: TypeAlias = Literal["packed", "paged"]


class StepRunner(Protocol):
    """Runs the steps of one span.

    Attributes:
        copies: bring results to the host, and wait for the device.
    """

    copies: Copies

    def run(
        self,
        parts: Sequence[Part],
        pieces: Sequence[torch.Tensor],
        logits_of: Sequence[int] = (),
        *,
        is_watched: bool = False,
    ) -> torch.Tensor:
        """Run the span once over packed rows and store their keys and values; may return before the device is done.

        Args:
            parts: whose rows, in packed order, those of one row first.
            pieces: their data in that order, on the host: int64 token ids [count] into the head, else hidden states
                [count, hidden_size].
            logits_of: the packed rows whose logits the tail is to give.
            is_watched: hooks of the span's modules must see these rows, and no others.

        Returns:
            On the device, and valid until the next step: [len(logits_of), vocab_size] from the tail, else
            [num_tokens, hidden_size].
        """
        ...


class PackedRunner:
    """Attends over the KV cache read by read: on the CPU by osai's kernels, and whatever layers cache on any device."""

    def __init__(self, model: SpanModel, binding: Binding, cache: KVCache) -> None:
        self._model, self._binding, self._cache = model, binding, cache
        self.copies = copies_for(model.device)

    def run(
        self,
        parts: Sequence[Part],
        pieces: Sequence[torch.Tensor],
        logits_of: Sequence[int] = (),
        *,
        is_watched: bool = False,  # noqa: ARG002 - they always do
    ) -> torch.Tensor:
        """See StepRunner."""
        data = self.copies.to_device(pieces)
        return run_packed_step(self._model, self._binding, self._cache, parts, data, logits_of)


def runner_kind(device_type: str, shapes: Sequence[LayerShape]) -> RunnerKind:
    """Which runner a span's steps take: pages read by kernels on a GPU, unless a layer makes keys of what is cached."""
    return "paged" if device_type == "cuda" and not any(shape.expands for shape in shapes) else "packed"


def tables_device(kind: RunnerKind, device: torch.device) -> torch.device:
    """Where a runner wants block tables: plans of pages are made on the host."""
    return torch.device("cpu") if kind == "paged" else device


def make_runner(kind: RunnerKind, model: SpanModel, binding: Binding, cache: KVCache, max_blocks: int) -> StepRunner:
    """The runner of that kind for a span whose sessions have at most `max_blocks`."""
    if kind == "packed":
        return PackedRunner(model, binding, cache)
    return PagedRunner(model, binding, cache, CudaCapture(model.device), copies_for(model.device), max_blocks)
