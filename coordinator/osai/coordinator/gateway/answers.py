"""OpenAI's shapes of an answer, built from the events of one generation. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite

from osai.coordinator.api import Chunk, Finished, GeneratedToken, Started
from osai.coordinator.gateway.errors import Json
from osai.coordinator.gateway.logprobs import TextPosition, chat_logprobs, completion_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHeader:
    """What an answer knows before its generation starts.

    Attributes:
        answer_id: unique, without the endpoint's prefix.
        created_s: wall-clock time, seconds since 1970.
        software: name and version of this program.
        include_usage: a stream ends with a chunk of usage.
        with_logprobs: tokens carry their logprobs.
    """

    answer_id: str
    created_s: int
    software: str
    include_usage: bool = False
    with_logprobs: bool = False


class Answer(ABC):
    """One answer. `opening`, `piece` and `closing` give the chunks of a stream, `whole` the plain answer.

    Besides OpenAI's fields, the first chunk and the plain answer carry `osai`: the session, the seed that repeats the
    answer, and the pipeline that served it (no addresses); the last chunk and the plain answer carry its timings.
    """

    prefix: str  # of the answer's id
    whole_kind: str  # OpenAI's `object` of a plain answer
    chunk_kind: str  # and of a chunk

    def __init__(self, header: AnswerHeader, started: Started) -> None:
        self._header = header
        self._started = started
        self._position = TextPosition()  # of the next token

    @abstractmethod
    def _choice(self, text: str, logprobs: Json | None, reason: str | None) -> Json:
        """The only item of a chunk's `choices`."""

    @abstractmethod
    def _whole_choice(self, text: str, logprobs: Json | None, reason: str) -> Json:
        """The only item of a plain answer's `choices`."""

    @abstractmethod
    def _message(self, text: str) -> Json:
        """The text, as the endpoint names and shapes it."""

    @abstractmethod
    def _logprobs(self, tokens: Sequence[GeneratedToken]) -> Json:
        """The tokens' logprobs in the endpoint's shape."""

    def opening(self) -> list[Json]:
        """The chunks that tell of the start."""
        return [self._envelope(self.chunk_kind, [self._choice("", None, None)]) | self._provenance()]

    def piece(self, chunk: Chunk) -> list[Json]:
        """The chunks of some tokens: none while the text lags and no logprobs were asked for."""
        logprobs = self._logprobs(chunk.tokens) if self._header.with_logprobs and chunk.tokens else None
        if not chunk.text and logprobs is None:
            return []
        return [self._envelope(self.chunk_kind, [self._choice(chunk.text, logprobs, None)])]

    def closing(self, finished: Finished) -> list[Json]:
        """The chunks that end the stream: the reason, and the usage where it was asked for."""
        choice = self._choice("", None, finished.reason)
        chunks = [self._envelope(self.chunk_kind, [choice]) | {"osai": _timings(finished)}]
        if self._header.include_usage:
            chunks.append(self._envelope(self.chunk_kind, []) | {"usage": self._usage(finished)})
        return chunks

    def whole(self, chunks: Sequence[Chunk], finished: Finished) -> Json:
        """The plain answer."""
        tokens = [token for chunk in chunks for token in chunk.tokens]
        logprobs = self._logprobs(tokens) if self._header.with_logprobs else None
        choice = self._whole_choice("".join(chunk.text for chunk in chunks), logprobs, finished.reason)
        provenance = self._provenance()["osai"] | _timings(finished)
        return self._envelope(self.whole_kind, [choice]) | {"usage": self._usage(finished), "osai": provenance}

    def partial(self, chunks: Sequence[Chunk]) -> Json:
        """What there is of a plain answer that an error ended."""
        text = "".join(chunk.text for chunk in chunks)
        return self._message(text) | {"num_tokens": sum(len(chunk.tokens) for chunk in chunks)}

    def _envelope(self, kind: str, choices: list[Json]) -> Json:
        envelope: Json = {
            "id": f"{self.prefix}{self._header.answer_id}",
            "object": kind,
            "created": self._header.created_s,
            "model": self._started.model_id,
            "system_fingerprint": fingerprint(self._header.software, self._started),
            "choices": choices,
        }
        return envelope | {"usage": None} if self._header.include_usage else envelope

    def _usage(self, finished: Finished) -> Json:
        prompt, generated = finished.num_prompt_tokens, finished.num_generated_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": self._started.num_cached_tokens},
        }

    def _provenance(self) -> Json:
        stages = [
            {"node": stage.node_id, "start": stage.span.start, "end": stage.span.end}
            for stage in self._started.pipeline
        ]
        return {"osai": {"session": self._started.session_id, "seed": self._started.seed, "pipeline": stages}}


class ChatAnswer(Answer):
    """The answer of /v1/chat/completions."""

    prefix = "chatcmpl-"
    whole_kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def opening(self) -> list[Json]:
        """The first chunk names the role."""
        chunks = super().opening()
        chunks[0]["choices"][0]["delta"] = {"role": "assistant", "content": ""}
        return chunks

    def _choice(self, text: str, logprobs: Json | None, reason: str | None) -> Json:
        delta = {} if reason else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _whole_choice(self, text: str, logprobs: Json | None, reason: str) -> Json:
        return {"index": 0, **self._message(text), "logprobs": logprobs, "finish_reason": reason}

    def _message(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _logprobs(self, tokens: Sequence[GeneratedToken]) -> Json:
        return chat_logprobs(tokens)


class CompletionAnswer(Answer):
    """The answer of /v1/completions."""

    prefix = "cmpl-"
    whole_kind = chunk_kind = "text_completion"

    def _choice(self, text: str, logprobs: Json | None, reason: str | None) -> Json:
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _whole_choice(self, text: str, logprobs: Json | None, reason: str) -> Json:
        return self._choice(text, logprobs, reason)

    def _message(self, text: str) -> Json:
        return {"text": text}

    def _logprobs(self, tokens: Sequence[GeneratedToken]) -> Json:
        logprobs, self._position = completion_logprobs(tokens, self._position)
        return logprobs


def fingerprint(software: str, started: Started) -> str:
    """`system_fingerprint`: software, model and pipeline, as far as they could change what a seed gives."""
    stages = ",".join(f"{stage.node_id}:{stage.span}" for stage in started.pipeline)
    return "fp_" + sha256(f"{software}|{started.model_id}|{stages}".encode()).hexdigest()[:12]


def _timings(finished: Finished) -> Json:
    timings = {"ttft_s": finished.ttft_s, "decode_tokens_per_s": finished.decode_tokens_per_s}
    return {name: value if isfinite(value) else None for name, value in timings.items()}  # JSON has no infinity
