"""Compiles grammars for a model's tokens, with llguidance: checked by the coordinator, enforced by the tail."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from osai.core.errors import InvalidRequestError, WeightsError
from osai.core.grammar import Grammar

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # it is there for type checkers alone

MAX_REASON_CHARS = 500  # of the library's: some list the whole vocabulary
# What a grammar may take, at 1 to 2 KB a state and 14 to 50 steps a microsecond: 40 MB, and 20 ms a token.
_MAX_LEXER_STATES = 20_000
_MAX_LEXER_FUEL = 200_000
_MAX_ITEMS = 50_000
_MAX_SYMBOLS = 100_000
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"  # in JSON; a model that is lost would else write blanks to the end


class Vocabulary:
    """A tokenizer as grammars see it: the bytes of each token, and which of them end a text.

    It takes a second to make of a large tokenizer, off the loop therefore. Safe to use from several threads at once.

    Args:
        tokenizer_file: the tokenizer.json, verified.
        eos_token_ids: the model's end-of-sequence tokens; where there are none, one that looks like it is taken.

    Attributes:
        eos_token_ids: of these, one may come only where a sentence of the grammar is complete.

    Raises:
        WeightsError: if the file can't be read.
    """

    def __init__(self, tokenizer_file: bytes, eos_token_ids: Sequence[int]) -> None:
        try:
            self._tokenizer = LLTokenizer(_object(tokenizer_file), eos_token=list(eos_token_ids) or None)
        except ValueError as e:
            reason = str(e)[:MAX_REASON_CHARS]
            raise WeightsError(f"no grammar can be used with this tokenizer: {reason}", subject="tokenizer.json") from e
        self.eos_token_ids = frozenset(self._tokenizer.eos_tokens)

    def matcher(self, grammar: Grammar) -> LLMatcher:
        """What follows a text of the grammar token by token, at its beginning; it takes up to a second.

        Raises:
            InvalidRequestError: if the grammar is wrong, or too big; it quotes the library.
        """
        limits = LLParserLimits(
            step_lexer_fuel=_MAX_LEXER_FUEL,
            step_max_items=_MAX_ITEMS,
            max_lexer_states=_MAX_LEXER_STATES,
            max_grammar_size=_MAX_SYMBOLS,
            verbose_errors=False,
        )
        matcher = LLMatcher(self._tokenizer, _source(grammar), log_level=0, limits=limits)
        check(matcher, grammar.kind)
        return matcher


def _object(tokenizer_file: bytes) -> str:
    text = tokenizer_file.decode()
    if not text.startswith("{"):  # the library takes other texts for names of files
        raise ValueError("it is no JSON object")
    return text


def check(matcher: LLMatcher, kind: str) -> None:
    """See whether a matcher is still good for anything.

    Raises:
        InvalidRequestError: if it has failed; it quotes the library.
    """
    if matcher.is_error():
        reason = matcher.get_error().strip()
        shown = reason if len(reason) <= MAX_REASON_CHARS else f"{reason[:MAX_REASON_CHARS]}..."
        raise InvalidRequestError(f"the {kind} can't be used as a grammar: {shown}")


def _source(grammar: Grammar) -> str:
    match grammar.kind:
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.text)
    try:
        schema = json.loads(grammar.text)  # what is no JSON would become part of the library's own
        own = isinstance(schema, dict) and "x-guidance" in schema  # the library's options, by whoever wrote the schema
        defaults: JsonCompileOptions = {} if own else {"whitespace_pattern": _WHITESPACE}
        return LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=defaults)
    except (ValueError, RecursionError) as e:
        raise InvalidRequestError(f"the json_schema is no JSON: {e}") from e
