"""OpenAI's `tools` and `tool_choice`. Pure."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from osai.coordinator.api import Tool
from osai.coordinator.gateway.asked import ToolUse
from osai.coordinator.gateway.errors import ParameterError
from osai.coordinator.gateway.schema import Body, Text
from osai.coordinator.gateway.validation import refused

MAX_TOOLS = 128  # as OpenAI's
TOOL_NAME = r"^[a-zA-Z0-9_.-]{1,128}$"
ToolName = Annotated[str, Field(pattern=TOOL_NAME)]
Mode = Literal["none", "auto", "required"]


class Function(Body):
    """`function` of a tool."""

    name: ToolName
    description: Text = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class FunctionTool(Body):
    """One of `tools`."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """`function` of a choice."""

    name: ToolName


class NamedChoice(Body):
    """A `tool_choice` that is one tool."""

    type: Literal["function"]
    function: NamedFunction


def _choice(value: object) -> object:
    if value in ("none", "auto", "required"):
        return value
    if isinstance(value, dict) and value.get("type") == "function":
        return NamedChoice.model_validate(value)
    kinds = "'none', 'auto', 'required', or {'type': 'function', 'function': {'name': ...}}"
    raise refused(f"must be {kinds}; no other kind is supported", code="unsupported_parameter")


ToolChoice = Annotated[
    Mode | NamedChoice,
    PlainValidator(_choice),
    WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]}),
]


def tool_use(
    functions: Sequence["Function"], *, mode: Mode, only: str, parallel: bool, names: str = "tools"
) -> ToolUse | None:
    """What a request's tools come to; None if none may be called.

    Args:
        functions: in order.
        mode: whether a tool may, or must, be called.
        only: the one that must be; empty: any.
        parallel: several calls are allowed.
        names: the parameter that the functions are in.

    Raises:
        ParameterError: if two have one name, a schema is too deep, or the one to call is not among them.
    """
    known = {function.name for function in functions}
    if len(known) < len(functions):
        raise ParameterError(f"{names}: two of them have the same name", param=names)
    if (mode == "required" or only) and not functions:
        raise ParameterError("tool_choice: only allowed when tools are sent", param="tool_choice")
    if only and only not in known:
        raise ParameterError(f"tool_choice: there is no tool {only!r} among those sent", param="tool_choice")
    if mode == "none" or not functions:
        return None
    return ToolUse(
        tools=tuple(_tool(function, names) for function in functions),
        schemas=tuple(function.parameters for function in functions),
        strict=any(function.strict for function in functions),
        required=mode == "required" or bool(only),
        only=only,
        parallel=parallel,
    )


def _tool(function: Function, names: str) -> Tool:
    try:
        parameters = json.dumps(function.parameters or {"type": "object", "properties": {}})
    except (RecursionError, ValueError) as e:
        raise ParameterError(f"{names}: the parameters of {function.name!r} are too deep", param=names) from e
    return Tool(name=function.name, description=function.description, parameters=parameters)
