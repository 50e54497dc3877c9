"""Loads decoder layers [start, end) of any causal language model that transformers knows, and runs them.

There is no code for single families here: transformers renames, fuses and ties the checkpoint's tensors itself. The
functions that do so are internal to it, are imported here and in `loading` alone, and fix its version in
pyproject.toml.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from osai.core.layers import LayerRange
from osai.core.precision import Quantization
from osai.node.engine.experts import install_experts
from osai.node.engine.fused import fuse
from osai.node.engine.kernels.library import load_kernels
from osai.node.engine.loading import fill, quiet
from osai.node.engine.packed_linear import pack_linears
from osai.node.engine.quantize import stored_bytes
from osai.node.engine.quantize_load import LoadQuantizer
from osai.node.engine.text_model import Absent, Skeleton, build

# Where checkpoints of several towers keep the text model, and where the text model alone has it.
_TEXT_PREFIXES = (("model.language_model.", "model."), ("language_model.model.", "model."), ("language_model.", ""))


class SpanModel:
    """Layers of a model, ready to run. The head embeds token ids; the tail gives logits.

    Attributes:
        layers: which layers of the whole model.
        num_layers: how many the whole model has.
        model: transformers' causal language model, without the modules of other nodes.
        decoder: the part of `model` that runs the layers.
        config: transformers' configuration of the span alone.
        dtype: of hidden states, and of weights but for those that the family keeps in float32.
        device: where the weights are.
        quantization: of linear weights.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        layers: LayerRange,
        dtype: torch.dtype,
        device: torch.device,
        quantization: Quantization = "none",
    ) -> None:
        self.layers, self.num_layers = layers, skeleton.num_layers
        self.model, self.decoder, self.config = skeleton.model, skeleton.decoder, skeleton.config
        self.dtype, self.device, self.quantization = dtype, device, quantization
        self.is_head, self.is_tail = layers.start == 0, layers.end == skeleton.num_layers
        self.hidden_size, self.vocab_size = int(self.config.hidden_size), int(self.config.vocab_size)

    @property
    def weight_bytes(self) -> int:
        """What parameters and buffers take in memory."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        packed = [getattr(module, "weight_bytes", 0) for module in self.model.modules()]  # held outside parameters
        return sum(map(stored_bytes, tensors)) + sum(packed)

    def forward(
        self, data: torch.Tensor, cache: object, position_ids: torch.Tensor, logits_to_keep: torch.Tensor
    ) -> torch.Tensor:
        """One packed step.

        Args:
            data: int64 [1, num_tokens] token ids into the head, else [1, num_tokens, hidden_size].
            cache: what the layers call as transformers' Cache.
            position_ids: int64 [1, num_tokens].
            logits_to_keep: int64 [num_kept], the packed rows whose logits the tail gives.

        Returns:
            [num_kept, vocab_size] logits from the tail, else [num_tokens, hidden_size].
        """
        inputs = {"input_ids": data} if self.is_head else {"inputs_embeds": data}
        inputs |= {"position_ids": position_ids}
        if self.is_tail:
            out = self.model(**inputs, cache=cache, use_cache=True, logits_to_keep=logits_to_keep).logits
        else:
            out = self.decoder(**inputs, cache=cache, use_cache=True).last_hidden_state
        return out[0]  # type: ignore[no-any-return]

    @contextmanager
    def watched(self) -> Iterator[list[torch.Tensor]]:
        """Gives a list, to which each `forward` of a tail adds the rows after the final norm: [num_rows, hidden_size].

        Not what a replayed graph runs, nor rows that a graph's buffers have too many.
        """
        seen: list[torch.Tensor] = []
        hook = self.decoder.register_forward_hook(lambda _module, _given, out: seen.append(out.last_hidden_state[0]))
        try:
            yield seen
        finally:
            hook.remove()


def load_span(
    config: Mapping[str, object],
    tensors: Mapping[str, object],
    layers: LayerRange,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    pack: bool = True,
    quantization: Quantization = "none",
) -> SpanModel:
    """Load a span.

    Args:
        config: the model's config.json, parsed.
        tensors: checkpoint name -> an object whose `[...]` gives the tensor; only those that the span needs are read.
        layers: which layers.
        dtype: of the weights in memory, whatever the checkpoint's.
        device: where they go.
        pack: whether linear layers on a CPU get their weights packed for oneDNN, see `packed_linear`.
        quantization: of linear weights, checked by `quantize.check_quantization`.

    Raises:
        AssignmentError: if the span has no layer that can be quantised so.
        UnknownModelError: if the model is of no kind that can be cut into spans.
        WeightsError: if tensors are missing or of a wrong shape, or what `tensors` raises on reading.
        InvalidRequestError: if the layers reach past the model's last.
    """
    with quiet():
        skeleton = _cut(config, layers, dtype)
        wanted = {text: tensors[name] for name, text in _needed(skeleton, tensors)}
        quantizer = None if quantization == "none" else LoadQuantizer(skeleton.model, quantization, dtype)
        fill(skeleton.model, wanted, dtype, torch.device(device), quantizer)
        skeleton.renumber(layers)
        splits = pack and torch.device(device).type == "cpu"
        install_experts(skeleton.model, skeleton.config, load_kernels() if splits else None, split=splits)
        if layers.start > 0:  # a tied tail needed it to find its LM head's weight
            skeleton.decoder.set_input_embeddings(Absent())
        if quantizer:
            quantizer.finish(skeleton.model)
        skeleton.check_passes_through()
        span = SpanModel(skeleton, layers, dtype, torch.device(device), quantization)
        if pack:
            _pack(span)
    return span


def _pack(span: SpanModel) -> None:
    """Bring weights and modules into the form in which this machine's CPU runs them fastest."""
    kernels = load_kernels() if span.device.type == "cpu" else None
    if kernels is not None:
        fuse(span, kernels)
    pack_linears(span.model, kernels)


def span_tensor_names(config: Mapping[str, object], names: Iterable[str], layers: LayerRange) -> list[str]:
    """Which of a checkpoint's tensors `load_span` would read, sorted. Raises as it does, but reads nothing."""
    with quiet():
        return sorted(name for name, _ in _needed(_cut(config, layers, torch.bfloat16), names))


def _cut(config: Mapping[str, object], layers: LayerRange, dtype: torch.dtype) -> Skeleton:
    skeleton = build(config, dtype)
    layers.check_within(skeleton.num_layers)
    skeleton.keep(layers)
    return skeleton


def _needed(skeleton: Skeleton, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(checkpoint name, name in the text model) of every tensor that the skeleton has a place for."""
    model = skeleton.model
    places = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    for name in names:
        text = _text_name(name) if skeleton.composite else name
        target, _ = rename_source_key(text, renamings, converters, model.base_model_prefix, places)
        if target in places or text in places:
            yield name, text


def _text_name(name: str) -> str:
    for prefix, plain in _TEXT_PREFIXES:
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name
