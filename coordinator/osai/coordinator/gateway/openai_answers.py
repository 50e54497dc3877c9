"""The answers of OpenAI's chat and completions. Pure."""

import json
from abc import abstractmethod
from collections.abc import Sequence

from osai.coordinator.api import Chunk, Finished, GeneratedToken, ToolCall
from osai.coordinator.gateway.answers import (
    Answer,
    AnswerHeader,
    fingerprint,
    provenance,
    provenances,
    timings,
)
from osai.coordinator.gateway.choice import Choice
from osai.coordinator.gateway.errors import Json, http_error
from osai.coordinator.gateway.logprobs import TextPosition, chat_logprobs, completion_logprobs
from osai.coordinator.gateway.sse import DONE, encode_events
from osai.core.errors import OsaiError


class OpenAiAnswer(Answer):
    """What both have in common.

    Besides OpenAI's fields, a choice's first chunk and the plain answer carry `osai`: see `provenance`; its last
    chunk and the plain answer carry its timings.
    """

    prefix: str  # of the answer's id
    whole_kind: str  # OpenAI's `object` of a plain answer
    chunk_kind: str  # and of a chunk

    def __init__(self, header: AnswerHeader) -> None:
        super().__init__(header)
        self._frames: dict[int, tuple[bytes, bytes]] = {}  # what stands around a text, by choice

    @abstractmethod
    def choice_part(self, choice: Choice, text: str, logprobs: Json | None, reason: str | None) -> Json:
        """An item of a chunk's `choices`."""

    @abstractmethod
    def whole_choice(self, choice: Choice, logprobs: Json | None) -> Json:
        """An item of a plain answer's `choices`."""

    @abstractmethod
    def message(self, choice: Choice) -> Json:
        """The text, as the endpoint names and shapes it."""

    @abstractmethod
    def logprobs(self, choice: Choice, tokens: Sequence[GeneratedToken]) -> Json:
        """The tokens' logprobs in the endpoint's shape."""

    @abstractmethod
    def call_part(self, choice: Choice, call: ToolCall) -> Json:
        """An item of a chunk's `choices` that is a complete call."""

    def opening(self, choice: Choice) -> bytes:
        """As of Answer."""
        self._frames[choice.index] = self._frame(choice)
        envelope = self._envelope(self.chunk_kind, [self.first_part(choice)])
        return encode_events([envelope | ({"osai": provenance(choice.started)} if choice.started else {})])

    def first_part(self, choice: Choice) -> Json:
        """The item of `choices` that opens one."""
        return self.choice_part(choice, "", None, None)

    def pieces(self, choice: Choice, chunk: Chunk) -> bytes:
        """As of Answer."""
        pieces = choice.add(chunk)
        if not self.header.with_logprobs:
            if not pieces:
                return b""
            if len(pieces) == 1 and isinstance(pieces[0], str):  # nearly every token
                before, after = self._frames[choice.index]
                return before + json.dumps(pieces[0], ensure_ascii=False).encode() + after
            return self._encoded([self._part(choice, piece) for piece in pieces])
        if not chunk.tokens:
            return self._encoded([self._part(choice, piece) for piece in pieces])
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        parts = [self.choice_part(choice, text, self.logprobs(choice, chunk.tokens), None)]
        return self._encoded(parts + [self._part(choice, piece) for piece in pieces if isinstance(piece, ToolCall)])

    def closing(self, choice: Choice, finished: Finished) -> bytes:
        """As of Answer."""
        parts = [self._part(choice, piece) for piece in choice.finish(finished)]
        last = self._envelope(self.chunk_kind, [self.choice_part(choice, "", None, choice.reason)])
        return self._encoded(parts) + encode_events([last | {"osai": timings(finished)}])

    def end(self) -> bytes:
        """As of Answer: with a chunk of usage where that was asked for."""
        if not self.header.include_usage:
            return DONE
        return encode_events([self._envelope(self.chunk_kind, []) | {"usage": self._usage()}]) + DONE

    def failed(self, error: OsaiError) -> bytes:
        """As of Answer."""
        return encode_events([http_error(error).body])

    def whole(self) -> Json:
        """As of Answer."""
        with_logprobs = self.header.with_logprobs
        choices = [
            self.whole_choice(choice, self.logprobs(choice, choice.tokens) if with_logprobs else None)
            for choice in self.choices
        ]
        return self._envelope(self.whole_kind, choices) | {"usage": self._usage(), "osai": provenances(self.choices)}

    def partial(self) -> Json | None:
        """As of Answer: of the choice that has come furthest."""
        furthest = max(self.choices, key=lambda choice: choice.num_tokens)
        return self.message(furthest) | {"num_tokens": furthest.num_tokens} if furthest.num_tokens else None

    def _part(self, choice: Choice, piece: str | ToolCall) -> Json:
        return self.choice_part(choice, piece, None, None) if isinstance(piece, str) else self.call_part(choice, piece)

    def _encoded(self, parts: Sequence[Json]) -> bytes:
        return encode_events([self._envelope(self.chunk_kind, [part]) for part in parts])

    def _frame(self, choice: Choice) -> tuple[bytes, bytes]:
        """A text's chunk without the text: all of them are alike, and there are many."""
        mark = "\0text"
        chunk = encode_events([self._envelope(self.chunk_kind, [self.choice_part(choice, mark, None, None)])])
        before, _, after = chunk.partition(json.dumps(mark).encode())
        return before, after

    def _envelope(self, kind: str, choices: list[Json]) -> Json:
        started = self.first_start
        envelope: Json = {
            "id": f"{self.prefix}{self.header.answer_id}",
            "object": kind,
            "created": self.header.created_s,
            "model": started.model_id,
            "system_fingerprint": fingerprint(self.header.software, started),
            "choices": choices,
        }
        return envelope | {"usage": None} if self.header.include_usage else envelope

    def _usage(self) -> Json:
        prompt, generated = self.num_prompt_tokens, self.num_generated_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }


class ChatAnswer(OpenAiAnswer):
    """The answer of /v1/chat/completions."""

    prefix = "chatcmpl-"
    whole_kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def first_part(self, choice: Choice) -> Json:
        """The first chunk names the role."""
        return self.choice_part(choice, "", None, None) | {"delta": {"role": "assistant", "content": ""}}

    def choice_part(self, choice: Choice, text: str, logprobs: Json | None, reason: str | None) -> Json:
        """As of OpenAiAnswer."""
        delta = {} if reason else {"content": text}
        return {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def call_part(self, choice: Choice, call: ToolCall) -> Json:
        """As of OpenAiAnswer."""
        delta = {"tool_calls": [{"index": choice.calls.index(call), **_call(call)}]}
        return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def whole_choice(self, choice: Choice, logprobs: Json | None) -> Json:
        """As of OpenAiAnswer."""
        message = self.message(choice)
        return {"index": choice.index, **message, "logprobs": logprobs, "finish_reason": choice.reason}

    def message(self, choice: Choice) -> Json:
        """As of OpenAiAnswer."""
        text = choice.text
        message: Json = {"role": "assistant", "content": text if text or not choice.calls else None, "refusal": None}
        if choice.calls:
            message["tool_calls"] = [_call(call) for call in choice.calls]
        return {"message": message}

    def logprobs(self, choice: Choice, tokens: Sequence[GeneratedToken]) -> Json:  # noqa: ARG002 - as of any choice
        """As of OpenAiAnswer."""
        return chat_logprobs(tokens)


class CompletionAnswer(OpenAiAnswer):
    """The answer of /v1/completions."""

    prefix = "cmpl-"
    whole_kind = chunk_kind = "text_completion"

    def __init__(self, header: AnswerHeader) -> None:
        super().__init__(header)
        self._positions = [TextPosition()] * header.num_choices  # of each choice's next token

    def choice_part(self, choice: Choice, text: str, logprobs: Json | None, reason: str | None) -> Json:
        """As of OpenAiAnswer."""
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def call_part(self, choice: Choice, call: ToolCall) -> Json:
        """A completion has no tools; its text would say what is called."""
        return self.choice_part(choice, call.arguments, None, None)

    def whole_choice(self, choice: Choice, logprobs: Json | None) -> Json:
        """As of OpenAiAnswer."""
        return self.choice_part(choice, choice.text, logprobs, choice.reason)

    def message(self, choice: Choice) -> Json:
        """As of OpenAiAnswer."""
        return {"text": choice.text}

    def logprobs(self, choice: Choice, tokens: Sequence[GeneratedToken]) -> Json:
        """As of OpenAiAnswer."""
        logprobs, self._positions[choice.index] = completion_logprobs(tokens, self._positions[choice.index])
        return logprobs


def _call(call: ToolCall) -> Json:
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
