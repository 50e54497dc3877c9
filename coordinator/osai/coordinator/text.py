"""Between text and token ids: prompts, chat templates, text that streams, stop strings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osai.coordinator.api import ChatMessage, Tool
from osai.coordinator.tool_calls.formats import FORMATS, style_of
from osai.coordinator.tool_calls.scanning import overlap
from osai.coordinator.tool_calls.style import ToolStyle
from osai.core.errors import InvalidRequestError, WeightsError

UNFINISHED = "\ufffd"  # what decoding gives for a token that is only part of a character


class Tokenizer:
    """A model's tokenizer and chat template, through transformers.

    Attributes:
        special_ids: tokens that are no text. The marks of the model's tool calls are text, be they special or not.
        tool_style: how the model calls tools, as its chat template has it; None if it knows none.
    """

    tool_style: ToolStyle | None = None

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
        self.tool_style = style_of(self._tool_template(), {its.content: token for token, its in added.items()})
        marks = FORMATS[self.tool_style.format].marks if self.tool_style else ()
        self.special_ids = frozenset(
            token for token, its in added.items() if its.special and its.content not in marks
        )  # those that decode() skips

    def encode(self, prompt: str | Sequence[ChatMessage], tools: Sequence[Tool] = ()) -> tuple[int, ...]:
        """Token ids of a text, or of a chat through the model's template, with the tools that the model may call.

        Raises:
            InvalidRequestError: if the model has no chat template, or the chat or the tools do not fit it.
        """
        if isinstance(prompt, str):
            return tuple(self._tokenizer(prompt)["input_ids"])
        if not self._tokenizer.chat_template:
            raise InvalidRequestError("the model has no chat template; send a plain prompt to completions instead")
        if tools and not self.tool_style:
            raise InvalidRequestError("the model's chat template knows no tools, or none that are called as known here")
        messages = [_turn(message) for message in prompt]
        described = [_described(tool) for tool in tools] or None
        try:
            chat = self._tokenizer.apply_chat_template(
                messages, tools=described, add_generation_prompt=True, return_dict=True
            )
        except Exception as e:  # a template is a program: it may fail in any way
            raise InvalidRequestError(f"the chat does not fit the model's template: {e}") from e
        return tuple(chat["input_ids"])

    def token_text(self, token_id: int) -> str:
        """The text of one token alone; UNFINISHED where it is only part of a character."""
        return str(self._tokenizer.decode([token_id]))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._tokenizer.decode([token for token in token_ids if token not in self.special_ids]))

    def _tool_template(self) -> str:
        """The template for chats with tools; a model may have several, by name."""
        template = self._tokenizer.chat_template or ""
        return (
            str(template.get("tool_use") or template.get("default") or "") if isinstance(template, dict) else template
        )


def _turn(message: ChatMessage) -> dict[str, object]:
    """A turn in the shape that transformers' templates expect: arguments are objects."""
    turn: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": _object(call.arguments, f"arguments of {call.name!r}")},
            }
            for call in message.tool_calls
        ]
    named = {"tool_call_id": message.tool_call_id, "name": message.name}
    return turn | {key: value for key, value in named.items() if value}


def _described(tool: Tool) -> dict[str, object]:
    """A tool in the shape that transformers' templates expect."""
    parameters = _object(tool.parameters, f"parameters of {tool.name!r}")
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _object(text: str, what: str) -> Mapping[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidRequestError(f"the {what} are no JSON: {e}") from e
    if not isinstance(value, dict):
        raise InvalidRequestError(f"the {what} are no JSON object")
    return value


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
    """Finds stop strings in text that comes in pieces, and holds back what may be the beginning of one. Pure.

    Attributes:
        stopped: whether one has come.
        found: that one; empty before.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False
        self.found = ""

    def add(self, text: str) -> str:
        """The text that may go out; after a stop string (`stopped`) nothing more does."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the one that is complete first, so that it does not matter where the pieces are cut
            self.stopped, self._held = True, ""
            _, at, self.found = min(found)
            return text[:at]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held
