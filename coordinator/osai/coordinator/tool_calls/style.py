"""How one model calls tools."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStyle:
    """How one model calls tools.

    Attributes:
        format: a name among osai.coordinator.tool_calls.formats.FORMATS.
        tokens: of the format's marks, those that are one token of the model, with its id.
    """

    format: str
    tokens: tuple[tuple[str, int], ...] = ()
