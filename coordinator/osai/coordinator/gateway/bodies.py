"""The bodies of POST /v1/chat/completions and POST /v1/completions. Pure."""

from typing import Annotated, ClassVar, Self

from pydantic import FailFast, Field, PlainValidator, WithJsonSchema, model_validator

from osai.coordinator.api import ChatMessage
from osai.coordinator.gateway.asked import ToolUse
from osai.coordinator.gateway.openai_schema import OpenAiBody
from osai.coordinator.gateway.schema import IDS_SCHEMA, TEXT_SCHEMA
from osai.coordinator.gateway.tool_bodies import MAX_TOOLS, FunctionTool, NamedChoice, ToolChoice, tool_use
from osai.coordinator.gateway.turns import Message, named_results
from osai.coordinator.gateway.validation import MAX_TOKEN_IDS, Neutral, refused, single_prompt

COMPLETION_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; a chat goes on as far as the context holds

Prompt = Annotated[
    str | tuple[int, ...],
    PlainValidator(single_prompt),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "items": TEXT_SCHEMA, "maxItems": 1}, IDS_SCHEMA]}),
]


class ChatBody(OpenAiBody):
    """POST /v1/chat/completions."""

    logprobs_name: ClassVar[str] = "top_logprobs"
    neutral: ClassVar[Neutral] = {
        "audio": [],
        "function_call": ["none", "auto"],
        "functions": [[]],
        "modalities": [["text"]],
        "moderation": [],
        "prediction": [],
        "prompt_cache_options": [],
        "prompt_cache_retention": [],
        "reasoning_effort": [],
        "service_tier": ["auto", "default"],
        "store": [False],
        "verbosity": [],
        "web_search_options": [],
    }
    messages: Annotated[list[Message], FailFast(), Field(min_length=1)]
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKEN_IDS)
    logprobs: bool = False
    top_logprobs: int = 0
    tools: list[FunctionTool] = Field(default_factory=list, max_length=MAX_TOOLS)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    safety_identifier: str | None = None  # a label, like `user`
    prompt_cache_key: str | None = None  # a hint that changes no answer

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise refused("is another name of max_tokens; send one of them", step="max_completion_tokens")
        if self.top_logprobs and not self.logprobs:
            raise refused("only allowed when logprobs is true", step="top_logprobs")
        return self

    def asked_prompt(self) -> tuple[ChatMessage, ...]:
        """The turns, for the model's chat template."""
        return named_results([message.turn() for message in self.messages])

    def asked_tools(self) -> ToolUse | None:
        """As `tools` and `tool_choice` have it."""
        choice = self.tool_choice
        return tool_use(
            [tool.function for tool in self.tools],
            mode="required" if isinstance(choice, NamedChoice) else choice,
            only=choice.function.name if isinstance(choice, NamedChoice) else "",
            parallel=self.parallel_tool_calls,
        )

    def asked_tokens(self) -> int | None:
        """Either name of the bound."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def asked_logprobs(self) -> int | None:
        """`logprobs` switches them on, `top_logprobs` says how many."""
        return self.top_logprobs if self.logprobs else None


class CompletionBody(OpenAiBody):
    """POST /v1/completions."""

    logprobs_name: ClassVar[str] = "logprobs"
    neutral: ClassVar[Neutral] = {"best_of": [1], "echo": [False], "suffix": [""]}
    prompt: Prompt
    logprobs: int | None = None

    def asked_prompt(self) -> str | tuple[int, ...]:
        """Text or token ids."""
        return self.prompt

    def asked_tokens(self) -> int:
        """OpenAI's default where none is given."""
        return COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    def asked_logprobs(self) -> int | None:
        """A number switches them on."""
        return self.logprobs
