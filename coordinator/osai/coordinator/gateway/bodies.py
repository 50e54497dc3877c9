"""The bodies of POST /v1/chat/completions and POST /v1/completions. Pure."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, PlainValidator, WithJsonSchema, model_validator

from osai.coordinator.api import ChatMessage
from osai.coordinator.gateway.schema import IDS_SCHEMA, TEXT_SCHEMA, Body, GenerationBody, Text
from osai.coordinator.gateway.validation import MAX_TOKEN_IDS, Neutral, join_text_parts, refused, single_prompt

COMPLETION_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; a chat goes on as far as the context holds

Prompt = Annotated[
    str | tuple[int, ...],
    PlainValidator(single_prompt),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "items": TEXT_SCHEMA, "maxItems": 1}, IDS_SCHEMA]}),
]
Content = Annotated[
    Text,
    BeforeValidator(join_text_parts),
    WithJsonSchema({"anyOf": [TEXT_SCHEMA, {"type": "array", "items": {"type": "object"}}]}),
]
_NEUTRAL: Neutral = {"n": [1], "logit_bias": [{}]}


class Message(Body):
    """One turn of a chat. `developer` is what newer models call `system`."""

    neutral: ClassVar[Neutral] = {
        "refusal": [],
        "annotations": [[]],
        "tool_calls": [[]],
        "audio": [],
        "function_call": [],
        "name": [],
    }
    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    def turn(self) -> ChatMessage:
        """The turn as chat templates know it."""
        return ChatMessage(role="system" if self.role == "developer" else self.role, content=self.content)


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    logprobs_name: ClassVar[str] = "top_logprobs"
    neutral: ClassVar[Neutral] = {
        **_NEUTRAL,
        "audio": [],
        "function_call": ["none", "auto"],
        "functions": [[]],
        "modalities": [["text"]],
        "moderation": [],
        "parallel_tool_calls": [True, False],
        "prediction": [],
        "prompt_cache_options": [],
        "prompt_cache_retention": [],
        "reasoning_effort": [],
        "response_format": [{"type": "text"}],
        "service_tier": ["auto", "default"],
        "store": [False],
        "tool_choice": ["none", "auto"],
        "tools": [[]],
        "verbosity": [],
        "web_search_options": [],
    }
    messages: Annotated[list[Message], FailFast(), Field(min_length=1)]
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKEN_IDS)
    logprobs: bool = False
    top_logprobs: int = 0
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
        return tuple(message.turn() for message in self.messages)

    def asked_tokens(self) -> int | None:
        """Either name of the bound."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def asked_logprobs(self) -> int | None:
        """`logprobs` switches them on, `top_logprobs` says how many."""
        return self.top_logprobs if self.logprobs else None


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    logprobs_name: ClassVar[str] = "logprobs"
    neutral: ClassVar[Neutral] = {**_NEUTRAL, "best_of": [1], "echo": [False], "suffix": [""]}
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
