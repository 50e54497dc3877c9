"""The skeleton of a span: a causal language model on the meta device without the modules of other nodes.

Layer kinds (sliding or full, MoE or dense, NoPE) are chosen by transformers from a layer's number in the whole model,
so the whole model is built first, which costs no memory on the meta device. Layers are renumbered from 0 only after
that: masks and caches look at layer 0 of what is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from osai.core.errors import UnknownModelError, WeightsError
from osai.core.layers import LayerRange

TransformersModel: TypeAlias = Any  # transformers' classes are not typed here
TransformersConfig: TypeAlias = Any

_REMOTE_CODE = "auto_map"  # names code to fetch and run: never honoured
_QUANTIZATION = "quantization_config"


class Absent(nn.Module):
    """Stands where a module of another node would be: passes its first argument on."""

    def forward(self, hidden: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
        """`hidden`, untouched."""
        return hidden


@dataclass(slots=True)
class Skeleton:
    """A model of which only the span's modules are left.

    Attributes:
        model: transformers' causal language model.
        decoder: the part of it that runs the layers.
        layers_name: the decoder's attribute that holds them.
        norm_name: the decoder's attribute that holds the final norm.
        config: the text model's configuration.
        composite: whether the checkpoint also holds other towers, and the text model under a prefix.
        num_layers: layers of the whole model.
    """

    model: TransformersModel
    decoder: TransformersModel
    layers_name: str
    norm_name: str
    config: TransformersConfig
    composite: bool
    num_layers: int

    def keep(self, layers: LayerRange) -> None:
        """Replace every module that `layers` does not need by an `Absent`; layers keep their numbers."""
        modules = getattr(self.decoder, self.layers_name)
        for i in range(self.num_layers):
            if i not in layers:
                modules[i] = Absent()
        is_tail = layers.end == self.num_layers
        tied = bool(self.model.all_tied_weights_keys) and bool(self.config.tie_word_embeddings)
        if layers.start > 0 and not (tied and is_tail):
            self.decoder.set_input_embeddings(Absent())
        if not is_tail:
            self.model.set_output_embeddings(Absent())
            self.model.all_tied_weights_keys = {}
            setattr(self.decoder, self.norm_name, Absent())

    def renumber(self, layers: LayerRange) -> None:
        """Drop the absent layers and make the span look like a whole model to masks, cache and attention modules."""
        modules = nn.ModuleList(getattr(self.decoder, self.layers_name)[layers.start : layers.end])
        setattr(self.decoder, self.layers_name, modules)
        for key, value in list(vars(self.config).items()):  # layer_types, no_rope_layers, mlp_layer_types, ...
            if isinstance(value, list) and len(value) == self.num_layers:
                object.__setattr__(self.config, key, value[layers.start : layers.end])
        if getattr(self.config, "moe_layers", None):
            inside = [i - layers.start for i in self.config.moe_layers if i in layers]
            object.__setattr__(self.config, "moe_layers", inside)
        self.config.num_hidden_layers = len(layers)
        for module in modules.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx -= layers.start  # type: ignore[operator, assignment]

    def check_passes_through(self) -> None:
        """Refuse a family whose decoder does more to its input than run the layers and the final norm.

        Such a decoder (one that scales embeddings, or adds learned positions) would do it again in every span.

        Raises:
            UnknownModelError: if it does.
        """
        layers, norm = getattr(self.decoder, self.layers_name), getattr(self.decoder, self.norm_name)
        weight = next(self.decoder.parameters())
        hidden = torch.linspace(-1, 1, self.config.hidden_size, dtype=weight.dtype, device=weight.device).view(1, 1, -1)
        positions = torch.ones(1, 1, dtype=torch.int64, device=weight.device)
        try:
            setattr(self.decoder, self.layers_name, nn.ModuleList())
            setattr(self.decoder, self.norm_name, Absent())
            with torch.inference_mode():
                out = self.decoder(inputs_embeds=hidden, position_ids=positions, use_cache=False).last_hidden_state
        finally:
            setattr(self.decoder, self.layers_name, layers)
            setattr(self.decoder, self.norm_name, norm)
        if not torch.equal(out, hidden):
            raise UnknownModelError(f"{type(self.decoder).__name__} changes hidden states outside its layers")


def build(config: Mapping[str, object], dtype: torch.dtype) -> Skeleton:
    """The whole model of a parsed config.json, on the meta device.

    Raises:
        UnknownModelError: if transformers has no code of its own for the model.
        WeightsError: if the configuration can't be read, or the checkpoint is quantized.
    """
    full = _parse(config)
    text = full.get_text_config(decoder=True)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text, dtype=dtype, trust_remote_code=False)
    except ValueError as e:
        raise UnknownModelError(f"no causal language model could be built of this configuration: {e}") from e
    model.eval()
    decoder, layers_name = _find_layers(model, text.num_hidden_layers)
    return Skeleton(
        model=model,
        decoder=decoder,
        layers_name=layers_name,
        norm_name=_find_norm(decoder),
        config=model.config,
        composite=text is not full,
        num_layers=text.num_hidden_layers,
    )


def _parse(config: Mapping[str, object]) -> TransformersConfig:
    if _QUANTIZATION in config or _QUANTIZATION in _section(config, "text_config"):
        raise WeightsError("the checkpoint is quantized, which osai does not load; use one in bfloat16 or float32")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise WeightsError("config.json: model_type is missing; is this a model's folder?")
    if model_type not in CONFIG_MAPPING:
        raise UnknownModelError(
            f"model_type {model_type!r} is none of transformers' own; code that comes with a checkpoint is never run",
            subject=model_type,
        )
    plain = {key: value for key, value in config.items() if key != _REMOTE_CODE}
    if text := _section(config, "text_config"):
        plain["text_config"] = {key: value for key, value in text.items() if key != _REMOTE_CODE}
    try:
        return CONFIG_MAPPING[model_type].from_dict(plain)
    except Exception as e:  # validation raises its own kinds of error, family by family
        raise WeightsError(f"config.json of model_type {model_type!r} can't be read: {e}") from e


def _section(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _find_layers(model: TransformersModel, num_layers: int) -> tuple[TransformersModel, str]:
    """The decoder and its attribute of layers. `model.base_model` is no help: Llama4ForCausalLM's is itself."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            for name, child in module.named_children():
                if isinstance(child, nn.ModuleList) and len(child) == num_layers:
                    return module, name
    raise UnknownModelError(
        f"{type(model).__name__} keeps its {num_layers} layers in no list that a span can be cut of"
    )


def _find_norm(decoder: TransformersModel) -> str:
    names: list[str] = [name for name, child in decoder.named_children() if "norm" in type(child).__name__.lower()]
    if len(names) != 1:  # `norm`, `ln_f`, `final_layernorm`
        raise UnknownModelError(
            f"{type(decoder).__name__} has {len(names)} final norms where a span needs one: {names}"
        )
    return names[0]
