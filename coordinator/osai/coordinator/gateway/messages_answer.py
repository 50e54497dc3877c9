"""The answer of POST /v1/messages, in Anthropic's shape. Pure."""

import json
from collections.abc import Sequence

from osai.coordinator.api import Chunk, Finished, ToolCall
from osai.coordinator.gateway.answers import Answer, AnswerHeader, provenance, provenances, timings
from osai.coordinator.gateway.choice import Choice
from osai.coordinator.gateway.errors import Json, anthropic_error, http_error
from osai.coordinator.gateway.sse import encode_named
from osai.core.errors import OsaiError

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessagesAnswer(Answer):
    """One message. Besides Anthropic's fields it carries `osai`, as OpenAI's shapes do."""

    def __init__(self, header: AnswerHeader) -> None:
        super().__init__(header)
        self._num_blocks = 0  # that have been begun
        self._in_text = False  # the last of them is of text, and still open

    def opening(self, choice: Choice) -> bytes:
        """As of Answer."""
        message = self._message([]) | {"usage": self._input_usage() | {"output_tokens": 0}}
        more = {"osai": provenance(choice.started)} if choice.started else {}
        return encode_named([{"type": "message_start", "message": message | more}, {"type": "ping"}])

    def pieces(self, choice: Choice, chunk: Chunk) -> bytes:
        """As of Answer."""
        return encode_named(self._events(choice.add(chunk)))

    def closing(self, choice: Choice, finished: Finished) -> bytes:
        """As of Answer."""
        events = self._events(choice.finish(finished))
        if not self._num_blocks:
            events += self._text_begun()
        events += self._text_ended()
        usage = self._input_usage() | {"output_tokens": finished.num_generated_tokens}
        last = {"type": "message_delta", "delta": _stopped(choice), "usage": usage, "osai": timings(finished)}
        return encode_named([*events, last, {"type": "message_stop"}])

    def end(self) -> bytes:
        """As of Answer: `message_stop` has been sent."""
        return b""

    def failed(self, error: OsaiError) -> bytes:
        """As of Answer."""
        body = anthropic_error(http_error(error), "").body
        return encode_named([{"type": "error", "error": body["error"]}])

    def whole(self) -> Json:
        """As of Answer."""
        (choice,) = self.choices
        calls = [{**_block(call), "input": json.loads(call.arguments)} for call in choice.calls]
        usage = self._input_usage() | {"output_tokens": choice.finished.num_generated_tokens}
        return (
            self._message([*_text_blocks(choice), *calls])
            | _stopped(choice)
            | {"usage": usage, "osai": provenances(self.choices)}
        )

    def partial(self) -> Json | None:
        """As of Answer."""
        (choice,) = self.choices
        return {"content": _text_blocks(choice), "num_tokens": choice.num_tokens} if choice.num_tokens else None

    def _events(self, pieces: Sequence[str | ToolCall]) -> list[Json]:
        events: list[Json] = []
        for piece in pieces:
            if isinstance(piece, str):
                events += [] if self._in_text else self._text_begun()
                events.append(self._delta({"type": "text_delta", "text": piece}))
            else:
                events += self._text_ended()
                events.append(self._block_begun({**_block(piece), "input": {}}))
                events.append(self._delta({"type": "input_json_delta", "partial_json": piece.arguments}))
                events.append(self._ended())
        return events

    def _text_begun(self) -> list[Json]:
        self._in_text = True
        return [self._block_begun({"type": "text", "text": ""})]

    def _text_ended(self) -> list[Json]:
        events = [self._ended()] if self._in_text else []
        self._in_text = False
        return events

    def _block_begun(self, block: Json) -> Json:
        self._num_blocks += 1
        return {"type": "content_block_start", "index": self._num_blocks - 1, "content_block": block}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._num_blocks - 1, "delta": delta}

    def _ended(self) -> Json:
        return {"type": "content_block_stop", "index": self._num_blocks - 1}

    def _message(self, content: list[Json]) -> Json:
        return {
            "id": f"msg_{self.header.answer_id}",
            "type": "message",
            "role": "assistant",
            "model": self.first_start.model_id,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _input_usage(self) -> Json:
        """Anthropic counts what was found cached apart from the rest."""
        cached = self.num_cached_tokens
        return {"input_tokens": self.num_prompt_tokens - cached, "cache_read_input_tokens": cached}


def _stopped(choice: Choice) -> Json:
    stop = choice.finished.stop
    reason = "stop_sequence" if stop and not choice.calls else _REASONS[choice.reason]
    return {"stop_reason": reason, "stop_sequence": stop or None}


def _text_blocks(choice: Choice) -> list[Json]:
    return [{"type": "text", "text": choice.text}] if choice.text or not choice.calls else []


def _block(call: ToolCall) -> Json:
    return {"type": "tool_use", "id": call.call_id, "name": call.name}
