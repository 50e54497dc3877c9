"""Which format a model has."""

from collections.abc import Mapping
from types import MappingProxyType

from osai.coordinator.tool_calls.calls import CallFormat
from osai.coordinator.tool_calls.falcon import Falcon
from osai.coordinator.tool_calls.gemma import Gemma
from osai.coordinator.tool_calls.hermes import Hermes
from osai.coordinator.tool_calls.llama_json import LlamaJson
from osai.coordinator.tool_calls.mistral import Mistral
from osai.coordinator.tool_calls.pythonic import Pythonic
from osai.coordinator.tool_calls.style import ToolStyle

# The first one that fits a template is taken: those with marks of their own come first.
_IN_ORDER: tuple[CallFormat, ...] = (
    Gemma("function_gemma", "<start_function_call>", "<end_function_call>", "<escape>"),
    Gemma("gemma", "<|tool_call>", "<tool_call|>", '<|"|>'),
    Mistral(),
    Falcon(),
    Hermes(),
    Pythonic(),
    LlamaJson(),
)
FORMATS: Mapping[str, CallFormat] = MappingProxyType({one.name: one for one in _IN_ORDER})


def style_of(template: str, vocabulary: Mapping[str, int]) -> ToolStyle | None:
    """How a model calls tools, judged by its chat template's text; None if it knows none, or a format not known here.

    Args:
        template: the text.
        vocabulary: the model's added tokens, by their text.
    """
    if "tools" not in template:
        return None
    found = next((one for one in _IN_ORDER if one.fits(template)), None)
    if found is None:
        return None
    tokens = tuple((mark, vocabulary[mark]) for mark in found.marks if mark in vocabulary)
    return ToolStyle(format=found.name, tokens=tokens)
