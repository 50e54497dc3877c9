"""What loading a span takes, worked out from its manifest and config before a tensor is read. Pure."""

import json
from dataclasses import dataclass
from math import prod

import torch

from osai.core.errors import AssignmentError, WeightsError
from osai.core.layers import LayerRange
from osai.core.manifest import SignedManifest
from osai.core.model import ModelFacts
from osai.node.device import choose_dtype
from osai.node.engine.span_model import span_tensor_names

MIN_KV_TOKENS = 48  # a block of a session and the engine's own two: without them it could serve nobody
MAX_KV_CONTEXTS = 32  # whole contexts for which KV is set aside at most, however much memory there is


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanPlan:
    """A span that is to be loaded.

    Attributes:
        config: the model's config.json.
        names: the checkpoint's tensors that the span needs.
        num_bytes: of them in the checkpoint.
        weight_bytes: of them in memory, in `dtype`; what packing keeps twice comes on top.
        dtype: to run in.
        memory_bytes: what weights and KV may take together.
    """

    model_id: str
    layers: LayerRange
    config: dict[str, object]
    facts: ModelFacts
    names: tuple[str, ...]
    num_bytes: int
    weight_bytes: int
    dtype: torch.dtype
    memory_bytes: int

    def check_memory(self) -> None:
        """Refuse a span whose weights do not fit, or leave no room for the KV of a session.

        Raises:
            AssignmentError: saying how much it takes and how much there is.
        """
        least = MIN_KV_TOKENS * self._kv_token_bytes
        if self.weight_bytes + least > self.memory_bytes:
            raise AssignmentError(
                f"layers {self.layers} of {self.model_id} take {_mib(self.weight_bytes)}, at least {_mib(least)} more "
                f"for KV, and this node has {_mib(self.memory_bytes)} for them; take fewer layers or give more with "
                "--memory"
            )

    def kv_bytes(self, loaded_bytes: int) -> int:
        """Bytes for KV beside weights that took `loaded_bytes`.

        Raises:
            AssignmentError: if nothing is left.
        """
        room = self.memory_bytes - loaded_bytes
        if room <= 0:
            raise AssignmentError(
                f"layers {self.layers} of {self.model_id} took {_mib(loaded_bytes)} and leave nothing for KV of "
                f"{_mib(self.memory_bytes)}; take fewer layers or give more with --memory"
            )
        return min(room, MAX_KV_CONTEXTS * self.facts.max_context * self._kv_token_bytes)

    @property
    def least_bytes(self) -> int:
        """Weights and the KV of one full context."""
        return self.weight_bytes + self.facts.max_context * self._kv_token_bytes

    @property
    def _kv_token_bytes(self) -> int:
        """Bytes that a token's KV takes on all layers, at most."""
        return self.facts.max_kv_numbers * self.dtype.itemsize * len(self.layers)


def plan_span(
    signed: SignedManifest, config_file: bytes, layers: LayerRange, *, dtype: str, memory_bytes: int
) -> SpanPlan:
    """Plan a span.

    Args:
        signed: the model's manifest.
        config_file: its config.json.
        layers: of the span.
        dtype: as the node's operator wants it; "auto" for the checkpoint's.
        memory_bytes: what weights and KV may take together.

    Raises:
        WeightsError: if the config can't be read.
        InvalidRequestError: if the layers reach past the model's last.
    """
    config = _read_json(config_file)
    facts = ModelFacts.from_config(config)
    layers.check_within(facts.num_layers)
    entries = {entry.name: entry for entry in signed.manifest.tensors}
    names = tuple(span_tensor_names(config, list(entries), layers))
    chosen = choose_dtype(dtype, facts.dtype)
    return SpanPlan(
        model_id=signed.manifest.model_id,
        layers=layers,
        config=config,
        facts=facts,
        names=names,
        num_bytes=sum(entries[name].size_bytes for name in names),
        weight_bytes=sum(prod(entries[name].shape) for name in names) * chosen.itemsize,
        dtype=chosen,
        memory_bytes=memory_bytes,
    )


def _read_json(data: bytes) -> dict[str, object]:
    try:
        config = json.loads(data)
    except ValueError as e:
        raise WeightsError(f"config.json is no JSON: {e}", subject="config.json") from e
    if not isinstance(config, dict):
        raise WeightsError("config.json holds no object", subject="config.json")
    return config


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
