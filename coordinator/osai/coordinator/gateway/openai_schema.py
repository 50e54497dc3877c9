"""What OpenAI's two older endpoints share: chat and completions. Pure."""

from abc import ABC
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from osai.coordinator.gateway.asked import MAX_CHOICES
from osai.coordinator.gateway.constraints import (
    MAX_CHOICE_TEXTS,
    ResponseFormat,
    SchemaObject,
    StructuredOutputs,
    guided,
    only_grammar,
)
from osai.coordinator.gateway.schema import Body, GenerationBody, Stops, Text
from osai.coordinator.gateway.validation import MAX_TOKEN_IDS, Neutral, biases, refused
from osai.core.grammar import Grammar
from osai.core.sampling import MAX_BIAS, MAX_BIASED_TOKENS

_GUIDED = "response_format, structured_outputs, guided_json, guided_regex, guided_choice and guided_grammar"
Biases = Annotated[
    tuple[tuple[int, float], ...],
    BeforeValidator(biases),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS},
            "maxProperties": MAX_BIASED_TOKENS,
        }
    ),
]


class StreamOptions(Body):
    """`stream_options`."""

    neutral: ClassVar[Neutral] = {"include_obfuscation": [False]}
    include_usage: bool = False


class OpenAiBody(GenerationBody, ABC):
    """What both endpoints take.

    `user` and `metadata` are labels for OpenAI's own bookkeeping; they are accepted, and nothing is kept of them.
    """

    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKEN_IDS)
    stop: Stops = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Biases = ()
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    user: str | None = None
    metadata: dict[str, str] | None = None
    response_format: ResponseFormat | None = None
    # osai's extensions, named as vLLM's
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaObject | None = None
    guided_regex: Text | None = None
    guided_choice: list[Text] | None = Field(default=None, min_length=1, max_length=MAX_CHOICE_TEXTS)
    guided_grammar: Text | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refused("only allowed when stream is true", step="stream_options")
        return self

    def asked_stop(self) -> tuple[str, ...]:
        """As sent."""
        return self.stop

    def asked_grammar(self) -> Grammar | None:
        """Of whichever parameter asks for one; only one may."""
        found = [self.response_format.grammar()] if self.response_format else []
        found += self.structured_outputs.grammars() if self.structured_outputs else []
        found += guided(
            "guided_",
            schema=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            lark=self.guided_grammar,
        )
        return only_grammar([grammar for grammar in found if grammar is not None], _GUIDED)

    def num_choices(self) -> int:
        """As sent."""
        return self.n

    def with_usage(self) -> bool:
        """As sent."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling_values(self, seed: int) -> dict[str, Any]:
        """Fields of SamplingParams."""
        return super().sampling_values(seed) | {
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias,
        }
