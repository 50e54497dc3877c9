"""Between text and token ids: prompts, chat templates, text that streams, stop strings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osai.coordinator.api import ChatMessage
from osai.core.errors import InvalidRequestError, WeightsError

UNFINISHED = "\ufffd"  # what decoding gives for a token that is only part of a character


class Tokenizer:
    """A model's tokenizer and chat template, through transformers."""

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer's files in `folder`, which must have been verified.

        Raises:
            WeightsError: if there is none that can be read.
        """
        from transformers import AutoTokenizer  # noqa: PLC0415 - takes a second, and is not needed for --help

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, use_fast=True)
        except Exception as e:  # of many kinds, the tokenizers library's bare Exception among them
            raise WeightsError(f"{folder} has no tokenizer that can be read: {e}") from e
        if not self._tokenizer.is_fast:
            raise WeightsError(f"{folder} has no tokenizer.json; only fast tokenizers are served")
        added = self._tokenizer.added_tokens_decoder
        self.special_ids = frozenset(token for token, its in added.items() if its.special)  # those that decode() skips

    def encode(self, prompt: str | Sequence[ChatMessage]) -> tuple[int, ...]:
        """Token ids of a text, or of a chat through the model's template.

        Raises:
            InvalidRequestError: if the model has no chat template, or the chat does not fit it.
        """
        if isinstance(prompt, str):
            return tuple(self._tokenizer(prompt)["input_ids"])
        if not self._tokenizer.chat_template:
            raise InvalidRequestError("the model has no chat template; send a plain prompt to completions instead")
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        try:
            chat = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except Exception as e:  # a template is a program: it may fail in any way
            raise InvalidRequestError(f"the chat does not fit the model's template: {e}") from e
        return tuple(chat["input_ids"])

    def token_text(self, token_id: int) -> str:
        """The text of one token alone; UNFINISHED where it is only part of a character."""
        return str(self._tokenizer.decode([token_id]))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


class Detokenizer:
    """Text of a growing row of tokens, never cutting a character in two.

    Decodes a short window of tokens twice, without and with the new ones, and gives the difference: what a token adds
    depends on its neighbours (leading spaces, bytes of a character), and decoding everything each time would be
    quadratic. The window restarts wherever text has been given (as in vLLM and text-generation-inference).
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        context = list(prompt[-6:])  # enough for any tokenizer's idea of a word's beginning
        self._tokenizer = tokenizer
        self._ids = context
        self._prefix_start = 0
        self._given = len(context)

    def add(self, token_ids: Sequence[int]) -> str:
        """The text that `token_ids` complete; may be empty."""
        # special tokens have no text: a long row of them must not make the window long
        self._ids.extend(token for token in token_ids if token not in self._tokenizer.special_ids)
        text = self._pending()
        if not text or text.endswith(UNFINISHED):
            return ""
        self._prefix_start, self._given = self._given, len(self._ids)
        return text

    def finish(self) -> str:
        """What is left: bytes that no character will complete any more."""
        text = self._pending()
        self._prefix_start = self._given = len(self._ids)
        return text

    def _pending(self) -> str:
        """What the tokens that have not been given add to the text."""
        before = self._tokenizer.decode(self._ids[self._prefix_start : self._given])
        after = self._tokenizer.decode(self._ids[self._prefix_start :])
        while before.endswith(UNFINISHED) and not after.startswith(before):
            before = before[:-1]  # the prompt ends within a character, and what follows completes it
        return after[len(before) :]


class StopMatcher:
    """Finds stop strings in text that comes in pieces, and holds back what may be the beginning of one. Pure."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """The text that may go out; after a stop string (`stopped`) nothing more does."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the one that is complete first, so that it does not matter where the pieces are cut
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
