"""What every format of tool calls has in common. Pure."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from osai.coordinator.tool_calls.style import ToolStyle

MAX_CALL_CHARS = 1_000_000  # a call that is longer is text


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCall:
    """One complete call. `arguments` is the text of a JSON object."""

    name: str
    arguments: str


Piece = str | ParsedCall
Read = Callable[[str], Sequence[ParsedCall]]  # what stands between two marks; empty if it is no call


class CallParser(Protocol):
    """Splits a text that comes in pieces into plain text and calls.

    A call is given when it is complete and well-formed, and names a known tool; all else comes through as text.
    Text is held back only while it may still turn out to be a call.
    """

    def add(self, text: str) -> list[Piece]:
        """What some more text gives; may be empty."""
        ...

    def finish(self) -> list[Piece]:
        """What is left when no more text comes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """A tool as a grammar needs it: its name, and the JSON schema of its arguments."""

    name: str
    schema: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRule:
    """What calls a text has to hold.

    Attributes:
        tools: that may be called; at least one.
        required: the text is one or more calls and nothing else; otherwise it may be plain text.
        parallel: several calls are allowed.
        answer: of a text that is not required to be calls: the lark rule body that it must fit; empty for any text.
    """

    tools: tuple[OfferedTool, ...]
    required: bool
    parallel: bool
    answer: str = ""


class CallFormat(ABC):
    """One family's format. `marks` are strings that a model may have as special tokens: they stay in its text."""

    name: str
    marks: tuple[str, ...] = ()

    @abstractmethod
    def fits(self, template: str) -> bool:
        """Whether a chat template's text asks the model for calls of this format."""

    @abstractmethod
    def parser(self, names: frozenset[str]) -> CallParser:
        """A parser of one generation's text, that knows the tools of these names."""

    @abstractmethod
    def grammar(self, rule: CallRule, style: ToolStyle) -> str:
        """The text that a rule allows, as llguidance's lark.

        Raises:
            InvalidRequestError: if a tool's schema says more than the format's grammar can.
        """

    def call_id(self, random_bits: Callable[[int], int]) -> str:
        """A new call's id."""
        return f"call_{random_bits(96):024x}"


def json_call(value: object, names: frozenset[str], *keys: str) -> ParsedCall | None:
    """The call that a JSON object describes, its arguments under one of `keys`; None if it is none."""
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), next((value[key] for key in keys if key in value), None)
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return ParsedCall(name=name, arguments=json.dumps(arguments, ensure_ascii=False))


def json_calls(text: str, names: frozenset[str], *keys: str) -> list[ParsedCall]:
    """The calls of a JSON object or of a list of them; empty if one of them is none."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return []
    calls = [json_call(one, names, *keys) for one in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call is not None] if all(calls) else []


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
