"""Quantises each weight as soon as it is read, so that a span in full precision never lies in memory.

transformers' loader asks the object below, in the place of its own quantisers, about every parameter.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps

from osai.core.errors import AssignmentError
from osai.core.precision import Quantization
from osai.node.engine.quantize import can_quantize, quantizable
from osai.node.engine.quantize_int8 import Int8Linear
from osai.node.engine.quantize_kernel import load_int8_kernel
from osai.node.engine.quantize_torchao import quantize_in_place


class LoadQuantizer:
    """What transformers' loader needs of an HfQuantizer, for one span.

    Attributes:
        quantization: into what.
        num_layers: how many layers have been quantised.
        faults: weights that do not fit the model, in words.
        pre_quantized: asked by transformers; the checkpoint is in full precision.
        quantization_config: asked by transformers for its name alone.
    """

    pre_quantized = False
    quantization_config = SimpleNamespace(quant_method="osai")

    def __init__(self, model: nn.Module, quantization: Quantization, dtype: torch.dtype) -> None:
        self.quantization, self.dtype, self.num_layers = quantization, dtype, 0
        self.faults: list[str] = []
        self._tied = set(getattr(model, "all_tied_weights_keys", {}))
        self._modules = dict(model.named_modules())

    def param_needs_quantization(self, _model: nn.Module, name: str) -> bool:
        """Whether that parameter is quantised on loading. Tied ones are done by `finish`, once they are tied."""
        path, _, attribute = name.rpartition(".")
        module = self._modules.get(path)
        if module is None or attribute != "weight" or name in self._tied:
            return False
        return can_quantize(module, self.quantization, self.dtype)

    def param_element_size(self, _model: nn.Module, name: str, param: torch.Tensor) -> float:
        """Bytes of an element while loading, by which transformers warms a GPU's allocator up."""
        return 1.0 if self.param_needs_quantization(_model, name) else float(param.element_size())

    def get_quantize_ops(self) -> ConversionOps:
        """The operation that transformers applies to such a parameter."""
        return _Quantize(self)

    def take(self, model: nn.Module, name: str, weight: torch.Tensor) -> None:
        """Put one weight, just read, into the model."""
        path = name.removesuffix(".weight")
        linear = model.get_submodule(path)
        wanted = linear.weight.shape
        if weight.shape != wanted:
            self.faults.append(f"{name} is {list(weight.shape)}, not {list(wanted)}")  # type: ignore[arg-type]
            return
        if not isinstance(linear, nn.Linear):
            return
        linear.weight = nn.Parameter(weight, requires_grad=False)
        parent, _, attribute = path.rpartition(".")
        self._quantize(model.get_submodule(parent), attribute, linear)

    def finish(self, model: nn.Module) -> None:
        """Quantise what is left: LM heads that are tied to an embedding, which stays as it is.

        Raises:
            AssignmentError: if there was nothing to quantise.
        """
        for parent, attribute, linear in list(quantizable(model, self.quantization, self.dtype)):
            self._quantize(parent, attribute, linear)
        if not self.num_layers:
            raise AssignmentError(
                f"no layer of this span can be quantised to {self.quantization}: its linear layers are too small, of "
                "odd shapes, or routers and experts, which stay as they are; use --quantize none"
            )

    def _quantize(self, parent: nn.Module, attribute: str, linear: nn.Linear) -> None:
        if linear.weight.device.type == "cpu" and self.quantization == "int8":
            setattr(parent, attribute, Int8Linear.quantized(linear.weight, linear.bias, load_int8_kernel()))
        else:
            linear.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)  # no longer a tied one
            quantize_in_place(linear, self.quantization)
            linear.weight._is_hf_initialized = True  # type: ignore[attr-defined] # noqa: SLF001  asked by transformers
        self.num_layers += 1


class _Quantize(ConversionOps):  # type: ignore[misc]
    """Hands a parameter over to the quantizer, and nothing back to transformers."""

    def __init__(self, quantizer: LoadQuantizer) -> None:
        self._quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str] | None = None,  # noqa: ARG002  transformers' signature
        target_patterns: list[str] | None = None,  # noqa: ARG002
        *,
        full_layer_name: str,
        model: nn.Module,
        missing_keys: set[str] | None = None,
        **_kwargs: object,
    ) -> dict[str, list[torch.Tensor]]:
        """Quantise the one tensor of `input_dict`."""
        (values,) = input_dict.values()
        weight = values[0] if isinstance(values, list) else values
        if missing_keys is not None:
            missing_keys.discard(full_layer_name)
        self._quantizer.take(model, full_layer_name, weight)
        return {}
