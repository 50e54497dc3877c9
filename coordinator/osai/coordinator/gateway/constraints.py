"""What an answer must be: OpenAI's `response_format`, and the extensions that vLLM's users know. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from osai.coordinator.gateway.errors import ParameterError
from osai.coordinator.gateway.schema import TEXT_SCHEMA, Body, Text
from osai.coordinator.gateway.validation import Neutral, refused
from osai.core.errors import InvalidRequestError
from osai.core.grammar import Grammar

MAX_CHOICE_TEXTS = 1000
_OBJECT_SCHEMA: dict[str, Any] = {"type": "object"}


def _schema_object(value: object) -> object:
    """A JSON schema as an object; its text is taken too, as by vLLM."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as e:
            raise refused(f"is no JSON schema: {e}") from None
    if not isinstance(value, dict):
        raise refused("must be a JSON schema, which is an object")
    return value


SchemaObject = Annotated[
    dict[str, Any], BeforeValidator(_schema_object), WithJsonSchema({"anyOf": [{"type": "object"}, TEXT_SCHEMA]})
]
JsonSchema = dict[str, Any]


class NamedSchema(Body):
    """`json_schema` of a response format. The answer is held to it whether it is `strict` or not."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: JsonSchema = Field(default_factory=lambda: dict(_OBJECT_SCHEMA), alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise refused("goes with type 'json_schema', and only with that", step="json_schema")
        return self

    def grammar(self) -> Grammar | None:
        """The language of the answer; None for any."""
        if self.type == "text":
            return None
        return schema_grammar(self.json_schema.schema_ if self.json_schema else _OBJECT_SCHEMA, "response_format")


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`: one of them."""

    neutral: ClassVar[Neutral] = {
        "disable_any_whitespace": [False],
        "disable_additional_properties": [False],
        "whitespace_pattern": [],
        "structural_tag": [],
        "disable_fallback": [True, False],
    }
    json_: SchemaObject | None = Field(default=None, alias="json")
    regex: Text | None = None
    choice: list[Text] | None = Field(default=None, min_length=1, max_length=MAX_CHOICE_TEXTS)
    grammar: Text | None = None
    json_object: bool | None = None

    def grammars(self) -> list[Grammar]:
        """What is asked for; at most one may be."""
        return guided(
            "structured_outputs.",
            schema=_OBJECT_SCHEMA if self.json_object else self.json_,
            regex=self.regex,
            choice=self.choice,
            lark=self.grammar,
        )


def guided(
    prefix: str,
    *,
    schema: JsonSchema | None,
    regex: str | None,
    choice: list[str] | None,
    lark: str | None,
) -> list[Grammar]:
    """The grammars of vLLM's parameters, whose names begin with `prefix`.

    Raises:
        ParameterError: if one is empty or too long.
    """
    found = []
    if schema is not None:
        found.append(schema_grammar(schema, f"{prefix}json"))
    if regex is not None:
        found.append(named_grammar("regex", regex, f"{prefix}regex"))
    if choice is not None:
        found.append(named_grammar("regex", "|".join(re.escape(text) for text in choice), f"{prefix}choice"))
    if lark is not None:
        found.append(named_grammar("lark", lark, f"{prefix}grammar"))
    return found


def schema_grammar(schema: Mapping[str, object], param: str) -> Grammar:
    """A JSON schema as a grammar; raises ParameterError if it is too long."""
    try:
        text = json.dumps(schema)
    except (RecursionError, ValueError) as e:
        raise ParameterError(f"{param}: the schema is too deep", param=param) from e
    return named_grammar("json_schema", text, param)


def named_grammar(kind: Literal["json_schema", "regex", "lark"], text: str, param: str) -> Grammar:
    """A grammar; raises ParameterError, which names the parameter, if it is empty or too long."""
    try:
        return Grammar(kind=kind, text=text)
    except InvalidRequestError as e:
        raise ParameterError(f"{param}: {e.message}", param=param) from e


def only_grammar(found: list[Grammar], names: str) -> Grammar | None:
    """The only one of several.

    Raises:
        ParameterError: if there are more.
    """
    if len(found) > 1:
        raise ParameterError(f"{names}: at most one of them may be sent", param=names.partition(",")[0])
    return found[0] if found else None
