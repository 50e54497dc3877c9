"""Turns of a chat, and the tools that a model may call in it. Plain data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool, as a model made it. `arguments` is the text of a JSON object."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a chat; `role` is one that the model's template knows: "system", "user", "assistant", "tool".

    Attributes:
        tool_calls: of an assistant's turn.
        tool_call_id: of a tool's turn: which call it answers.
        name: of the speaker or tool; may be empty.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What a model may call. `parameters` is the text of the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: str = "{}"
