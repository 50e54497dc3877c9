"""The body of POST /v1/messages, in Anthropic's shape. Pure."""

import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, WithJsonSchema, model_validator

from osai.coordinator.api import ChatMessage, ToolCall
from osai.coordinator.gateway.asked import ToolUse
from osai.coordinator.gateway.constraints import JsonSchema, schema_grammar
from osai.coordinator.gateway.schema import TEXT_SCHEMA, Body, GenerationBody, Stops, Text
from osai.coordinator.gateway.tool_bodies import MAX_TOOLS, Function, ToolName, tool_use
from osai.coordinator.gateway.turns import named_results
from osai.coordinator.gateway.validation import MAX_TOKEN_IDS, Neutral, refused
from osai.core.grammar import Grammar

CacheControl = dict[str, Any]  # a hint that changes no answer: KV of prompts that begin alike is shared anyway


class TextBlock(Body):
    """A block of text."""

    neutral: ClassVar[Neutral] = {"citations": [[]]}
    type: Literal["text"]
    text: Text
    cache_control: CacheControl | None = None


def _joined(content: object) -> object:
    """Text that may come as blocks of text."""
    if not isinstance(content, list):
        return content
    blocks = [_block(TextBlock, index, block) for index, block in enumerate(content)]
    return "".join(block.text for block in blocks)


def _block(kind: type[TextBlock], index: int, block: object) -> TextBlock:
    if not isinstance(block, dict) or block.get("type") != "text":
        raise refused("only blocks of type 'text' are supported here", code="unsupported_parameter", step=f"[{index}]")
    return kind.model_validate(block)


BlockText = Annotated[
    Text,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "items": {"type": "object"}}]}),
]


class ToolUseBlock(Body):
    """A call, in an assistant's turn."""

    neutral: ClassVar[Neutral] = {"caller": [{"type": "direct"}], "toolset_name": []}
    type: Literal["tool_use"]
    id: Text
    name: ToolName
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ToolResultBlock(Body):
    """What a call gave, in a user's turn."""

    neutral: ClassVar[Neutral] = {"toolset_name": []}
    type: Literal["tool_result"]
    tool_use_id: Text
    content: BlockText = ""
    is_error: bool = False
    cache_control: CacheControl | None = None

    def turn(self) -> ChatMessage:
        """The turn as chat templates know it; they know no errors, so the text says that it is one."""
        text = f"Error: {self.content}" if self.is_error else self.content
        return ChatMessage(role="tool", content=text, tool_call_id=self.tool_use_id)


_KINDS: dict[str, type[Body]] = {"text": TextBlock, "tool_use": ToolUseBlock, "tool_result": ToolResultBlock}


def _blocks(content: object) -> object:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        for index, block in enumerate(content):
            if not isinstance(block, dict) or block.get("type") not in _KINDS:
                kinds = "blocks of type 'text', 'tool_use' and 'tool_result' are supported"
                raise refused(f"only {kinds}", code="unsupported_parameter", step=f"[{index}]")
    return content


Block = Annotated[TextBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]
Blocks = Annotated[
    list[Block],
    BeforeValidator(_blocks),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "items": {"type": "object"}}]}),
]


class Turn(Body):
    """One of `messages`."""

    role: Literal["user", "assistant"]
    content: Blocks

    @model_validator(mode="after")
    def _check_blocks(self) -> Self:
        wrong = ToolUseBlock if self.role == "user" else ToolResultBlock
        for index, block in enumerate(self.content):
            if isinstance(block, wrong):
                raise refused(f"no {block.type} in a turn of role {self.role!r}", step=f"content[{index}]")
        return self

    def turns(self) -> list[ChatMessage]:
        """The turns as chat templates know them: each result of a tool is a turn of its own."""
        text = "".join(block.text for block in self.content if isinstance(block, TextBlock))
        calls = [block for block in self.content if isinstance(block, ToolUseBlock)]
        results = [block.turn() for block in self.content if isinstance(block, ToolResultBlock)]
        if results and not text:
            return results
        made = tuple(ToolCall(call_id=call.id, name=call.name, arguments=_text(call.input)) for call in calls)
        return [*results, ChatMessage(role=self.role, content=text, tool_calls=made)]


def _text(value: dict[str, Any]) -> str:
    try:
        return json.dumps(value)
    except (RecursionError, ValueError):
        raise refused("too deep", step="content") from None


class MessagesTool(Body):
    """One of `tools`. Anthropic's own tools have other types."""

    neutral: ClassVar[Neutral] = {
        "allowed_callers": [["direct"]],
        "defer_loading": [False],
        "eager_input_streaming": [True, False],
        "input_examples": [[]],
    }
    type: Literal["custom"] = "custom"
    name: ToolName
    description: Text = ""
    input_schema: JsonSchema
    strict: bool = False
    cache_control: CacheControl | None = None

    def function(self) -> Function:
        """The tool in OpenAI's shape."""
        return Function(name=self.name, description=self.description, parameters=self.input_schema, strict=self.strict)


class MessagesToolChoice(Body):
    """`tool_choice`."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise refused("goes with type 'tool', and only with that", step="name")
        return self


class OutputFormat(Body):
    """`format` of `output_config`."""

    type: Literal["json_schema"]
    schema_: JsonSchema = Field(alias="schema")


class OutputConfig(Body):
    """`output_config`."""

    neutral: ClassVar[Neutral] = {"effort": [], "task_budget": []}
    format: OutputFormat | None = None


_MODES: dict[str, Literal["none", "auto", "required"]] = {
    "auto": "auto", "any": "required", "tool": "required", "none": "none",
}  # fmt: skip


class MessagesBody(GenerationBody):
    """POST /v1/messages. `metadata` is a label, like OpenAI's `user`."""

    logprobs_name: ClassVar[str] = "logprobs"
    neutral: ClassVar[Neutral] = {
        "container": [],
        "diagnostics": [],
        "inference_geo": [],
        "service_tier": ["auto", "standard_only"],
        "speed": ["standard"],
        "thinking": [{"type": "disabled"}],
        "user_profile_id": [],
        "workspace_id": [],
    }
    messages: Annotated[list[Turn], FailFast(), Field(min_length=1)]
    max_tokens: int = Field(ge=1, le=MAX_TOKEN_IDS)
    system: BlockText = ""
    stop_sequences: Stops = ()
    tools: list[MessagesTool] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: MessagesToolChoice = MessagesToolChoice(type="auto")
    output_config: OutputConfig | None = None
    metadata: dict[str, Any] | None = None
    cache_control: CacheControl | None = None

    def asked_prompt(self) -> tuple[ChatMessage, ...]:
        """The turns, for the model's chat template."""
        system = [ChatMessage(role="system", content=self.system)] if self.system else []
        return named_results([*system, *(turn for message in self.messages for turn in message.turns())])

    def asked_tokens(self) -> int:
        """As sent."""
        return self.max_tokens

    def asked_logprobs(self) -> None:
        """The API has none."""

    def asked_stop(self) -> tuple[str, ...]:
        """As sent."""
        return self.stop_sequences

    def asked_grammar(self) -> Grammar | None:
        """As `output_config` has it."""
        wanted = self.output_config.format if self.output_config else None
        return schema_grammar(wanted.schema_, "output_config.format.schema") if wanted else None

    def asked_tools(self) -> ToolUse | None:
        """As `tools` and `tool_choice` have it."""
        choice = self.tool_choice
        return tool_use(
            [tool.function() for tool in self.tools],
            mode=_MODES[choice.type],
            only=choice.name or "",
            parallel=not choice.disable_parallel_tool_use,
        )
