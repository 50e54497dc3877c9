"""Finds out what a span's layers cache of each token, by one step that stores nothing."""

import torch
from transformers.cache_utils import get_layer_types_and_kwargs

from osai.core.errors import UnknownModelError
from osai.node.engine.attention import Binding, How, attend
from osai.node.engine.kv_plan import LayerShape
from osai.node.engine.span_model import SpanModel
from osai.node.engine.text_model import TransformersConfig
from osai.node.engine.windows import Window


class _Probe:
    """Stands in for the cache, for a step of one token, and notes what each layer hands over."""

    is_compileable = False

    def __init__(self, windows: list[Window]) -> None:
        self._windows = windows
        self._updates: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.shapes: dict[int, LayerShape] = {}

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._updates[layer_idx] = (key, value)
        return key, value

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
        if layer in self._updates:  # else it attends to another layer's keys: no shape is noted, which is an error
            cached_key, cached_value = self._updates[layer]
            self.shapes[layer] = LayerShape(
                key=(cached_key.shape[1], cached_key.shape[3]),
                value=(cached_value.shape[1], cached_value.shape[3]),
                dtype=cached_key.dtype,
                window=self._windows[layer],
                expands=key is not cached_key or value is not cached_value,
            )
        return attend(query, key, value, None, how)

    def get_seq_length(self, _layer_idx: int = 0) -> int:
        return 0

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, _layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0


def measure_shapes(span: SpanModel, binding: Binding) -> tuple[LayerShape, ...]:
    """What each layer of a span caches of one token.

    Raises:
        UnknownModelError: if a layer caches something else than keys and values of its own, or attends to them in a
            way that goes past the attention registry.
    """
    probe = _Probe(_windows(span.config))
    zeros = torch.zeros(1, 1, dtype=torch.int64, device=span.device)
    ones = torch.ones(1, 1, span.hidden_size, dtype=span.dtype, device=span.device)
    binding.cache = probe
    try:
        with torch.inference_mode():
            span.forward(zeros if span.is_head else ones, probe, zeros, zeros[0])
    except AttributeError as e:
        raise UnknownModelError(f"{type(span.decoder).__name__} needs a cache of its own kind: {e}") from e
    finally:
        binding.cache = None
    missing = [i + span.layers.start for i in range(len(span.layers)) if i not in probe.shapes]
    if missing:
        raise UnknownModelError(f"{type(span.decoder).__name__}: layers {missing} attend in a way that is not served")
    return tuple(probe.shapes[i] for i in range(len(span.layers)))


def _windows(config: TransformersConfig) -> list[Window]:
    windows = []
    for kind, kwargs in zip(*get_layer_types_and_kwargs(config), strict=True):
        size = kwargs.get("sliding_window")
        if kind == "sliding_attention" and size:
            windows.append(Window("sliding", size))
        elif kind == "chunked_attention" and size:
            windows.append(Window("chunked", size))
        elif kind == "full_attention":
            windows.append(Window())
        else:
            raise UnknownModelError(f"layers of kind {kind!r} are not served: osai caches keys and values alone")
    return windows
