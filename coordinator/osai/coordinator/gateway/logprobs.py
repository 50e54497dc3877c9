"""OpenAI's two shapes of logprobs. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from osai.coordinator.api import GeneratedToken
from osai.coordinator.gateway.errors import Json

LEAST_LOGPROB = -9999.0  # OpenAI's number for "impossible": JSON has no infinity
FRAGMENT = "\ufffd"  # in a token's text: part of a character


def chat_logprobs(tokens: Sequence[GeneratedToken]) -> Json:
    """`choices[].logprobs` of a chat: each token with its bytes and alternatives."""
    content = []
    for token in tokens:
        alternatives = [_entry(text, logprob) for _, text, logprob in token.top]
        content.append(_entry(token.text, token.logprob) | {"top_logprobs": alternatives})
    return {"content": content, "refusal": None}


@dataclass(frozen=True, slots=True)
class TextPosition:
    """How far the text has come.

    Attributes:
        offset: characters so far, without a character that is under way.
        in_character: the last token was part of a character; a run of such tokens counts as one character.
    """

    offset: int = 0
    in_character: bool = False

    def begin(self, token: GeneratedToken) -> int:
        """Where a token's text begins."""
        return self.offset + (self.in_character and token.text != FRAGMENT)

    def after(self, token: GeneratedToken) -> "TextPosition":
        """The position behind a token."""
        if token.text == FRAGMENT:
            return TextPosition(self.offset, in_character=True)
        return TextPosition(self.begin(token) + len(token.text))


def completion_logprobs(tokens: Sequence[GeneratedToken], start: TextPosition) -> tuple[Json, TextPosition]:
    """`choices[].logprobs` of a completion whose text has come to `start`, and how far it is after these tokens."""
    positions = list(accumulate(tokens, TextPosition.after, initial=start))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_by_text(token) for token in tokens],
        "text_offset": [position.begin(token) for position, token in zip(positions, tokens, strict=False)],
    }, positions[-1]


def _by_text(token: GeneratedToken) -> dict[str, float]:
    found: dict[str, float] = {}
    for _, text, logprob in token.top:
        found.setdefault(text, _finite(logprob))  # of two tokens with one text, the likelier
    return found


def _entry(text: str, logprob: float | None) -> Json:
    whole = FRAGMENT not in text
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode()) if whole else None}


def _finite(logprob: float | None) -> float:
    return logprob if logprob is not None and math.isfinite(logprob) else LEAST_LOGPROB
