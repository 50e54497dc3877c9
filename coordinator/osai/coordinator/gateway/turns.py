"""OpenAI's chat messages, and the turns that they are. Pure."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from osai.coordinator.api import ChatMessage, ToolCall
from osai.coordinator.gateway.schema import TEXT_SCHEMA, Body, Text
from osai.coordinator.gateway.tool_bodies import ToolName
from osai.coordinator.gateway.validation import Neutral, join_text_parts, refused

Content = Annotated[
    Text,
    BeforeValidator(join_text_parts),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "items": {"type": "object"}}]}),
]


class CalledFunction(Body):
    """`function` of a call."""

    name: ToolName
    arguments: Text


class Call(Body):
    """One of an assistant's `tool_calls`."""

    neutral: ClassVar[Neutral] = {"index": []}
    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction

    def tool_call(self) -> ToolCall:
        """The call as chat templates know it."""
        return ToolCall(call_id=self.id, name=self.function.name, arguments=self.function.arguments or "{}")


class Message(Body):
    """One turn of a chat. `developer` is what newer models call `system`."""

    neutral: ClassVar[Neutral] = {"refusal": [], "annotations": [[]], "audio": [], "function_call": []}
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[Call] = Field(default_factory=list)
    tool_call_id: Text | None = None
    name: Text = ""

    @model_validator(mode="after")
    def _check_role(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise refused("only of role 'assistant'", step="tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise refused("goes with role 'tool', and only with that", step="tool_call_id")
        if self.content is None and not self.tool_calls:
            raise refused("required", code="missing_required_parameter", step="content")
        return self

    def turn(self) -> ChatMessage:
        """The turn as chat templates know it."""
        return ChatMessage(
            role="system" if self.role == "developer" else self.role,
            content=self.content or "",
            tool_calls=tuple(call.tool_call() for call in self.tool_calls),
            tool_call_id=self.tool_call_id or "",
            name=self.name,
        )


def named_results(turns: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The turns; a tool's turn without a name has that of the call which it answers, as some templates want it."""
    names: dict[str, str] = {}
    named = []
    for turn in turns:
        names |= {call.call_id: call.name for call in turn.tool_calls}
        if turn.role == "tool" and not turn.name and (name := names.get(turn.tool_call_id)):
            named.append(ChatMessage(role="tool", content=turn.content, tool_call_id=turn.tool_call_id, name=name))
        else:
            named.append(turn)
    return tuple(named)
