"""The body of POST /v1/responses. Pure."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, FailFast, Field, PlainValidator, WithJsonSchema

from osai.coordinator.api import ChatMessage, ToolCall
from osai.coordinator.gateway.asked import ToolUse
from osai.coordinator.gateway.constraints import JsonSchema, schema_grammar
from osai.coordinator.gateway.schema import TEXT_SCHEMA, Body, GenerationBody, Text
from osai.coordinator.gateway.tool_bodies import MAX_TOOLS, Function, Mode, ToolName, tool_use
from osai.coordinator.gateway.turns import named_results
from osai.coordinator.gateway.validation import MAX_TOKEN_IDS, Neutral, refused
from osai.core.grammar import Grammar

LOGPROBS = "message.output_text.logprobs"
_PARTS = ("input_text", "output_text")


def _joined(content: object) -> object:
    """Text that may come as parts of text; an answer's own parts may be sent back as they are."""
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        step = f"[{index}]"
        if not isinstance(part, dict) or part.get("type") not in _PARTS:
            raise refused("only parts of type 'input_text' are supported", code="unsupported_parameter", step=step)
        known = {"type", "text", "annotations", "logprobs"} if part["type"] == "output_text" else {"type", "text"}
        if set(part) - known or not isinstance(part.get("text"), str):
            raise refused("a text part is {'type': 'input_text', 'text': STRING}, nothing else", step=step)
        texts.append(part["text"])
    return "".join(texts)


PartText = Annotated[
    Text,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "items": {"type": "object"}}]}),
]
Label = str | None  # of OpenAI's own bookkeeping; items of an answer have them, and may be sent back


class InputMessage(Body):
    """A turn."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: PartText
    id: Label = None
    status: Label = None
    phase: Label = None

    def turn(self) -> ChatMessage:
        """The turn as chat templates know it."""
        return ChatMessage(role="system" if self.role == "developer" else self.role, content=self.content)


class InputCall(Body):
    """A call that the model has made."""

    neutral: ClassVar[Neutral] = {"namespace": [], "caller": [{"type": "direct"}], "async": [False]}
    type: Literal["function_call"]
    call_id: Text
    name: ToolName
    arguments: Text
    id: Label = None
    status: Label = None

    def turn(self) -> ChatMessage:
        """The turn as chat templates know it."""
        call = ToolCall(call_id=self.call_id, name=self.name, arguments=self.arguments or "{}")
        return ChatMessage(role="assistant", content="", tool_calls=(call,))


class InputOutput(Body):
    """What a call has given."""

    neutral: ClassVar[Neutral] = {"namespace": [], "caller": [{"type": "direct"}]}
    type: Literal["function_call_output"]
    call_id: Text
    output: PartText
    name: ToolName | None = None
    id: Label = None
    status: Label = None

    def turn(self) -> ChatMessage:
        """The turn as chat templates know it."""
        return ChatMessage(role="tool", content=self.output, tool_call_id=self.call_id, name=self.name or "")


def _items(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if isinstance(value, list):
        return [_typed(index, item) for index, item in enumerate(value)]
    return value


def _typed(index: int, item: object) -> object:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if not isinstance(item, dict) or kind not in {"message", "function_call", "function_call_output"}:
        kinds = "items of type 'message', 'function_call' and 'function_call_output' are supported"
        raise refused(f"only {kinds}", code="unsupported_parameter", step=f"[{index}]")
    return {**item, "type": kind}


Item = Annotated[InputMessage | InputCall | InputOutput, Field(discriminator="type")]
Items = Annotated[
    list[Item],
    FailFast(),
    Field(min_length=1),
    BeforeValidator(_items),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "minItems": 1, "items": {"type": "object"}}]}),
]


class TextFormat(Body):
    """`format` of `text`."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: Text | None = None
    schema_: JsonSchema | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def grammar(self) -> Grammar | None:
        """The language of the answer; None for any."""
        if self.type == "text":
            return None
        return schema_grammar(self.schema_ or {"type": "object"}, "text.format.schema")


class TextConfig(Body):
    """`text`."""

    neutral: ClassVar[Neutral] = {"verbosity": ["medium"]}
    format: TextFormat | None = None


class ResponsesTool(Body):
    """One of `tools`; those that OpenAI runs itself have other types."""

    neutral: ClassVar[Neutral] = {"allowed_callers": [["direct"]], "defer_loading": [False], "output_schema": []}
    type: Literal["function"]
    name: ToolName
    description: Text = ""
    parameters: JsonSchema = Field(default_factory=dict)
    strict: bool = False


def _choice(value: object) -> object:
    if value in ("none", "auto", "required"):
        return value
    if isinstance(value, dict) and value.get("type") == "function":
        return ResponsesNamed.model_validate(value)
    kinds = "'none', 'auto', 'required', or {'type': 'function', 'name': ...}"
    raise refused(f"must be {kinds}; no other kind is supported", code="unsupported_parameter")


class ResponsesNamed(Body):
    """A `tool_choice` that is one tool."""

    type: Literal["function"]
    name: ToolName


ResponsesChoice = Annotated[
    Mode | ResponsesNamed,
    PlainValidator(_choice),
    WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]}),
]


class ResponsesBody(GenerationBody):
    """POST /v1/responses. Nothing is stored: `store` is false even where it is left out.

    `user`, `metadata` and `safety_identifier` are labels for OpenAI's own bookkeeping; they are accepted, and nothing
    is kept of them. `prompt_cache_key` is a hint that changes no answer.
    """

    logprobs_name: ClassVar[str] = "top_logprobs"
    neutral: ClassVar[Neutral] = {
        "access_programs": [],
        "background": [False],
        "background_options": [],
        "context_management": [[]],
        "conversation": [],
        "image": [],
        "max_tool_calls": [],
        "moderation": [],
        "previous_response_id": [],
        "prompt": [],
        "prompt_cache_options": [],
        "prompt_cache_retention": [],
        "reasoning": [{}],
        "service_tier": ["auto", "default"],
        "store": [False],
        "stream_options": [{}, {"include_obfuscation": False}],
        "truncation": ["disabled"],
    }
    input: Items
    instructions: Text | None = None
    include: list[Literal["message.output_text.logprobs"]] = Field(default_factory=list)
    top_logprobs: int = 0
    max_output_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKEN_IDS)
    text: TextConfig | None = None
    tools: list[ResponsesTool] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: ResponsesChoice = "auto"
    parallel_tool_calls: bool = True
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None

    def asked_prompt(self) -> tuple[ChatMessage, ...]:
        """The turns, for the model's chat template; calls that follow each other are one turn's."""
        turns = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        for item in self.input:
            turn = item.turn()
            last = turns[-1] if turns else None
            if turn.tool_calls and last is not None and last.role == "assistant":
                calls = (*last.tool_calls, *turn.tool_calls)
                turns[-1] = ChatMessage(role="assistant", content=last.content, tool_calls=calls)
            else:
                turns.append(turn)
        return named_results(turns)

    def asked_tokens(self) -> int | None:
        """As sent."""
        return self.max_output_tokens

    def asked_logprobs(self) -> int | None:
        """Either parameter switches them on."""
        return self.top_logprobs if self.top_logprobs or self.include else None

    def asked_grammar(self) -> Grammar | None:
        """As `text` has it."""
        return self.text.format.grammar() if self.text and self.text.format else None

    def asked_tools(self) -> ToolUse | None:
        """As `tools` and `tool_choice` have it."""
        choice = self.tool_choice
        return tool_use(
            [
                Function(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)
                for tool in self.tools
            ],
            mode="required" if isinstance(choice, ResponsesNamed) else choice,
            only=choice.name if isinstance(choice, ResponsesNamed) else "",
            parallel=self.parallel_tool_calls,
        )

    def echoed(self) -> dict[str, Any]:
        """What the answer repeats of its request."""
        choice = self.tool_choice
        sent = self.model_dump(mode="json", by_alias=True, include={"tools", "text", "metadata"})
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": sent["metadata"] or {},
            "parallel_tool_calls": self.parallel_tool_calls,
            "temperature": self.temperature,
            "text": sent["text"] if sent["text"] and sent["text"]["format"] else {"format": {"type": "text"}},
            "tool_choice": choice.model_dump() if isinstance(choice, ResponsesNamed) else choice,
            "tools": sent["tools"],
            "top_logprobs": self.top_logprobs,
            "top_p": self.top_p,
        }
