"""What bench `gpu` runs on: a span of random weights made on the device, and a copy within the device's memory."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import transformers as tf

from osai.core.layers import LayerRange

NUM_COPIES = 10  # in one measurement


class RandomTensors(Mapping[str, "RandomTensor"]):
    """A checkpoint's tensors by name, drawn on the device when they are read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: str) -> None:
        self._shapes, self._device = shapes, device

    def __getitem__(self, name: str) -> "RandomTensor":
        return RandomTensor(self._shapes[name], self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@dataclass(frozen=True, slots=True)
class RandomTensor:
    """One tensor that is not there yet."""

    shape: tuple[int, ...]
    device: str

    def __getitem__(self, _: object) -> torch.Tensor:
        """All of it, bfloat16; small enough that hidden states stay finite through many layers."""
        return torch.randn(self.shape, dtype=torch.bfloat16, device=self.device) * 0.02


def span_shapes(config: tf.LlamaConfig, layers: LayerRange) -> dict[str, tuple[int, ...]]:
    """Shapes of a span's tensors, by their names in a checkpoint."""
    with torch.device("meta"):
        model = tf.LlamaForCausalLM(config)
    wanted = tuple(f"model.layers.{i}." for i in range(layers.start, layers.end))
    return {name: tuple(t.shape) for name, t in model.state_dict().items() if name.startswith(wanted)}


class Copier:
    """Copies a buffer on the device into another one."""

    def __init__(self, device: str, num_bytes: int) -> None:
        self._source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
        self._target = torch.zeros_like(self._source)

    def bytes_per_s(self) -> float:
        """Bytes read and written a second: twice those of the buffer; the best of a few."""
        return max(self._once() for _ in range(NUM_COPIES))

    def _once(self) -> float:
        self._wait()
        start = time.perf_counter()
        self._target.copy_(self._source)
        self._wait()
        return 2 * self._source.numel() / (time.perf_counter() - start)

    def _wait(self) -> None:
        if self._source.is_cuda:
            torch.cuda.synchronize(self._source.device)
