"""What a generated text must be. The enforcing is the node's, at the tail."""

from dataclasses import dataclass
from typing import Literal

from osai.core.errors import InvalidRequestError

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
