"""The answer of POST /v1/responses: a list of items. Pure."""

from collections.abc import Sequence

from osai.coordinator.api import Chunk, Finished, GeneratedToken, ToolCall
from osai.coordinator.gateway.answers import Answer, AnswerHeader, provenance, provenances
from osai.coordinator.gateway.choice import Choice
from osai.coordinator.gateway.errors import Json, http_error
from osai.coordinator.gateway.logprobs import chat_logprobs
from osai.coordinator.gateway.sse import encode_named
from osai.core.errors import OsaiError


class ResponsesAnswer(Answer):
    """One response: at most one message, and any number of calls, as they come.

    Args:
        header: as of every answer.
        echoed: what the answer repeats of its request.
    """

    def __init__(self, header: AnswerHeader, echoed: Json) -> None:
        super().__init__(header)
        self._echoed = echoed
        self._items: list[Json] = []  # complete ones
        self._message_id = ""  # of the message that is under way
        self._num_texts = 0  # of the choice, that are in complete messages
        self._num_events = 0

    def opening(self, choice: Choice) -> bytes:
        """As of Answer."""
        begun = self._response("in_progress")
        begun |= {"osai": provenance(choice.started)} if choice.started else {}
        return self._encoded([{"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")])

    def pieces(self, choice: Choice, chunk: Chunk) -> bytes:
        """As of Answer."""
        return self._encoded(self._events(choice, choice.add(chunk), chunk.tokens))

    def closing(self, choice: Choice, finished: Finished) -> bytes:
        """As of Answer."""
        events = self._events(choice, choice.finish(finished), ())
        if not self._message_id and not self._items:
            events += self._message_begun()
        events += self._message_ended(choice)
        whole = self.whole()
        kind = "response.completed" if whole["status"] == "completed" else "response.incomplete"
        return self._encoded([*events, {"type": kind, "response": whole}])

    def end(self) -> bytes:
        """As of Answer: `response.completed` has been sent."""
        return b""

    def failed(self, error: OsaiError) -> bytes:
        """As of Answer."""
        told = http_error(error).body["error"]
        named = {name: told[name] for name in ("code", "message", "param")}
        return self._encoded([{"type": "error", **named}])

    def whole(self) -> Json:
        """As of Answer."""
        (choice,) = self.choices
        items = self._items or self._collected(choice)
        complete = choice.finished.reason == "stop"
        response = self._response("completed" if complete else "incomplete") | {"output": items}
        response["incomplete_details"] = None if complete else {"reason": "max_output_tokens"}
        return response | {"usage": self._usage(), "osai": provenances(self.choices)}

    def partial(self) -> Json | None:
        """As of Answer."""
        (choice,) = self.choices
        return {"output": self._collected(choice), "num_tokens": choice.num_tokens} if choice.num_tokens else None

    def _collected(self, choice: Choice) -> list[Json]:
        """The items of a plain answer."""
        message = [self._message(choice.text, choice, self._new_id("msg"))] if choice.text or not choice.calls else []
        return message + [self._call(call, self._new_id("fc")) for call in choice.calls]

    def _events(self, choice: Choice, pieces: Sequence[str | ToolCall], tokens: Sequence[GeneratedToken]) -> list[Json]:
        events: list[Json] = []
        logprobs = chat_logprobs(tokens)["content"] if self.header.with_logprobs else []
        if logprobs and not any(isinstance(piece, str) for piece in pieces):
            pieces = ["", *pieces]  # logprobs come with their tokens, though the text lags
        for piece in pieces:
            if isinstance(piece, ToolCall):
                events += [*self._message_ended(choice), *self._call_events(piece)]
                continue
            events += [] if self._message_id else self._message_begun()
            delta = {"type": "response.output_text.delta", "delta": piece, "logprobs": logprobs}
            events.append(delta | self._place() | {"content_index": 0})
            logprobs = []
        return events

    def _message_begun(self) -> list[Json]:
        self._message_id = self._new_id("msg")
        item = {"id": self._message_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            {"type": "response.output_item.added", "output_index": len(self._items), "item": item},
            {"type": "response.content_part.added", "content_index": 0, "part": part} | self._place(),
        ]

    def _message_ended(self, choice: Choice) -> list[Json]:
        if not self._message_id:
            return []
        num_texts = len(choice.texts)
        text = "".join(choice.texts[self._num_texts : num_texts])
        self._num_texts = num_texts
        item = self._message(text, choice, self._message_id)
        (part,) = item["content"]
        place = self._place() | {"content_index": 0}
        events = [
            {"type": "response.output_text.done", "text": text, "logprobs": part["logprobs"]} | place,
            {"type": "response.content_part.done", "part": part} | place,
            {"type": "response.output_item.done", "output_index": len(self._items), "item": item},
        ]
        self._items.append(item)
        self._message_id = ""
        return events

    def _call_events(self, call: ToolCall) -> list[Json]:
        item = self._call(call, self._new_id("fc"))
        place = {"output_index": len(self._items)}
        named = place | {"item_id": item["id"]}
        begun = item | {"arguments": "", "status": "in_progress"}
        self._items.append(item)
        done = {"type": "response.function_call_arguments.done", "name": call.name, "arguments": call.arguments}
        return [
            {"type": "response.output_item.added", "item": begun} | place,
            {"type": "response.function_call_arguments.delta", "delta": call.arguments} | named,
            done | named,
            {"type": "response.output_item.done", "item": item} | place,
        ]

    def _place(self) -> Json:
        return {"output_index": len(self._items), "item_id": self._message_id}

    def _message(self, text: str, choice: Choice, item_id: str) -> Json:
        tokens = choice.tokens if self.header.with_logprobs and not self._items else []
        logprobs = chat_logprobs(tokens)["content"]
        status = "incomplete" if choice.ended is not None and choice.ended.reason == "length" else "completed"
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
        return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": [part]}

    def _call(self, call: ToolCall, item_id: str) -> Json:
        named = {"call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        return {"id": item_id, "type": "function_call", "status": "completed", **named}

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self.header.new_id()}"

    def _response(self, status: str) -> Json:
        fixed: Json = {
            "id": f"resp_{self.header.answer_id}",
            "object": "response",
            "created_at": self.header.created_s,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": self.first_start.model_id,
            "output": [],
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None,
        }
        return fixed | self._echoed

    def _usage(self) -> Json:
        prompt, generated = self.num_prompt_tokens, self.num_generated_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.num_cached_tokens, "cache_write_tokens": 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + generated,
        }

    def _encoded(self, events: Sequence[Json]) -> bytes:
        numbered = [event | {"sequence_number": self._num_events + i} for i, event in enumerate(events)]
        self._num_events += len(events)
        return encode_named(numbered)
