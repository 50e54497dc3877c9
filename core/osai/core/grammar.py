"""What a generated text must be. The enforcing is the node's, at the tail."""

from dataclasses import dataclass
from typing import Literal

from osai.core.errors import InvalidRequestError
from osai.proto import common_pb2

MAX_GRAMMAR_CHARS = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A language; the generated text is a sentence of it from its first character on, or the beginning of one.

    Attributes:
        kind: "json_schema" (a JSON schema; the text is a JSON value that it allows), "regex" (of the whole text), or
            "lark" (a context-free grammar as llguidance reads it).
        text: the schema, expression or grammar itself.

    Raises:
        InvalidRequestError: if the text is empty or too long.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str

    def __post_init__(self) -> None:
        if not 0 < len(self.text) <= MAX_GRAMMAR_CHARS:
            raise InvalidRequestError(
                f"the {self.kind} has {len(self.text)} characters; it must have between 1 and {MAX_GRAMMAR_CHARS}"
            )


def read_grammar(message: common_pb2.Grammar) -> Grammar:
    """Read a grammar off the wire.

    Raises:
        InvalidRequestError: if it is of no kind that is known here, empty, or too long.
    """
    match message.WhichOneof("kind"):
        case "json_schema":
            return Grammar(kind="json_schema", text=message.json_schema)
        case "regex":
            return Grammar(kind="regex", text=message.regex)
        case "lark":
            return Grammar(kind="lark", text=message.lark)
    raise InvalidRequestError("the grammar is of no kind that is known: give a json_schema, a regex or a lark grammar")


def write_grammar(grammar: Grammar) -> common_pb2.Grammar:
    """A grammar for the wire."""
    match grammar.kind:
        case "json_schema":
            return common_pb2.Grammar(json_schema=grammar.text)
        case "regex":
            return common_pb2.Grammar(regex=grammar.text)
        case "lark":
            return common_pb2.Grammar(lark=grammar.text)
