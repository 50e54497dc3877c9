"""Has transformers load tensors into a skeleton; its settings while it does so, undone afterwards."""

import contextlib
import logging
import os
from collections.abc import Iterator

import torch
from transformers import logging as transformers_logging
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.modeling_utils import LoadStateDictConfig

from osai.core.errors import WeightsError
from osai.node.engine.quantize_load import LoadQuantizer
from osai.node.engine.text_model import TransformersModel

_NUM_NAMED = 5  # tensors that an error names before it says how many more


@contextlib.contextmanager
def read_one_by_one() -> Iterator[None]:
    """Let transformers read each tensor only when it is fused, or all experts would lie in memory twice."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and advice: what matters is raised as an error."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def fill(
    model: TransformersModel,
    tensors: dict[str, object],
    dtype: torch.dtype,
    device: torch.device,
    quantizer: LoadQuantizer | None,
) -> None:
    """Have transformers load `tensors` into the skeleton, and see that nothing is left out.

    Args:
        model: a skeleton's, on the meta device.
        tensors: name in the text model -> an object whose `[...]` gives the tensor.
        dtype: of the weights in memory.
        device: where they go.
        quantizer: what makes them smaller as they come; None to leave them whole.

    Raises:
        WeightsError: if tensors are missing or of a wrong shape, or what `tensors` raises on reading.
    """
    mapping = get_model_conversion_mapping(model)
    fuses = any(isinstance(entry, WeightConverter) for entry in mapping)
    plan = model._get_dtype_plan(dtype)  # noqa: SLF001
    load = LoadStateDictConfig(
        dtype=dtype, device_map={"": device}, dtype_plan=plan, weight_mapping=mapping, hf_quantizer=quantizer
    )
    with read_one_by_one() if fuses else contextlib.nullcontext():
        info, _ = model._load_pretrained_model(model, tensors, None, load)  # noqa: SLF001
    _refuse(
        [
            *(f"{name} is {list(found)}, not {list(wanted)}" for name, found, wanted in sorted(info.mismatched_keys)),
            *(quantizer.faults if quantizer else ()),
            *(f"{name} can't be made: {_last_line(why)}" for name, why in sorted(info.conversion_errors.items())),
        ]
    )
    info = model._finalize_model_loading(model, load, info)  # noqa: SLF001
    left = [name for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    _refuse([f"{name} is missing" for name in sorted({*info.missing_keys, *left})])


def _refuse(faults: list[str]) -> None:
    if faults:
        more = f" and {len(faults) - _NUM_NAMED} more" if len(faults) > _NUM_NAMED else ""
        raise WeightsError(f"the checkpoint does not fit its config.json: {'; '.join(faults[:_NUM_NAMED])}{more}")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
