"""What becomes of the events of a request: a stream's bytes, or one JSON object. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite

from osai.coordinator.api import Chunk, Finished, GenerationEvent, Started
from osai.coordinator.gateway.choice import Choice
from osai.coordinator.gateway.errors import Json
from osai.coordinator.tool_calls.calls import CallParser
from osai.core.errors import InternalError, OsaiError


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHeader:
    """What an answer knows before its generations start.

    Attributes:
        answer_id: unique, without the endpoint's prefix.
        created_s: wall-clock time, seconds since 1970.
        software: name and version of this program.
        num_choices: generations that it is made of.
        include_usage: a stream of OpenAI's ends with a chunk of usage.
        with_logprobs: tokens carry their logprobs.
        new_parser: makes a parser of tool calls for a choice; None where no tool can be called.
        new_call_id: gives a call its id.
        new_id: 32 random hex digits, for parts of an answer that have ids of their own.
    """

    answer_id: str
    created_s: int
    software: str
    num_choices: int = 1
    include_usage: bool = False
    with_logprobs: bool = False
    new_parser: Callable[[], CallParser] | None = None
    new_call_id: Callable[[], str] = str
    new_id: Callable[[], str] = str


class Answer(ABC):
    """One answer. Each event of its choices goes in once, in order.

    Into `started`, `chunk` and `finished` for a stream, whose bytes come out; into `collect` for a plain answer, which
    is `whole` at the end.
    """

    def __init__(self, header: AnswerHeader) -> None:
        self.header = header
        self.choices = tuple(
            Choice(
                index=index,
                parser=header.new_parser() if header.new_parser else None,
                new_id=header.new_call_id,
                keeps_tokens=header.with_logprobs,
            )
            for index in range(header.num_choices)
        )

    def started(self, index: int, started: Started) -> bytes:
        """A choice has started."""
        self.choices[index].started = started
        return self.opening(self.choices[index])

    def chunk(self, index: int, chunk: Chunk) -> bytes:
        """A choice goes on.

        Raises:
            InternalError: if it has not started.
        """
        return self.pieces(self._begun(index), chunk)

    def finished(self, index: int, finished: Finished) -> bytes:
        """A choice is complete; raises InternalError if it has not started."""
        return self.closing(self._begun(index), finished)

    def collect(self, index: int, event: GenerationEvent) -> None:
        """A choice of a plain answer goes on."""
        match event:
            case Chunk():
                self._begun(index).add(event)
            case Finished():
                self._begun(index).finish(event)
            case Started():
                self.choices[index].started = event

    def check_complete(self) -> None:
        """Raise InternalError if a choice is not."""
        for choice in self.choices:
            _ = choice.finished

    def _begun(self, index: int) -> Choice:
        choice = self.choices[index]
        if choice.started is None:
            raise InternalError("the generation went on before it started; try again")
        return choice

    @abstractmethod
    def opening(self, choice: Choice) -> bytes:
        """The events that tell of a choice's start."""

    @abstractmethod
    def pieces(self, choice: Choice, chunk: Chunk) -> bytes:
        """The events of some tokens, which are to be added to the choice; empty while its text lags."""

    @abstractmethod
    def closing(self, choice: Choice, finished: Finished) -> bytes:
        """The events of a choice's end, which it is to be told."""

    @abstractmethod
    def end(self) -> bytes:
        """The events that end the stream, all choices complete."""

    @abstractmethod
    def failed(self, error: OsaiError) -> bytes:
        """The event that ends a stream visibly."""

    @abstractmethod
    def whole(self) -> Json:
        """The plain answer, all choices complete."""

    @abstractmethod
    def partial(self) -> Json | None:
        """What there is of a plain answer that an error has ended; None if that is nothing."""

    @property
    def first_start(self) -> Started:
        """Of whichever choice started first; raises InternalError if none has."""
        for choice in self.choices:
            if choice.started is not None:
                return choice.started
        raise InternalError("the generation ended before it started; try again")

    @property
    def num_prompt_tokens(self) -> int:
        """Of the one prompt that all choices have."""
        return self.first_start.num_prompt_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Of the prompt, that the first choice found cached: those after it share its KV, which is no saving."""
        return self.first_start.num_cached_tokens

    @property
    def num_generated_tokens(self) -> int:
        """Of all choices together."""
        return sum(choice.finished.num_generated_tokens for choice in self.choices)


def fingerprint(software: str, started: Started) -> str:
    """`system_fingerprint`: software, model and pipeline, as far as they could change what a seed gives."""
    stages = ",".join(f"{stage.node_id}:{stage.span}" for stage in started.pipeline)
    return "fp_" + sha256(f"{software}|{started.model_id}|{stages}".encode()).hexdigest()[:12]


def provenance(started: Started) -> Json:
    """`osai`: the session, the seed that repeats the answer, and the pipeline that served it (no addresses)."""
    stages = [{"node": stage.node_id, "start": stage.span.start, "end": stage.span.end} for stage in started.pipeline]
    return {"session": started.session_id, "seed": started.seed, "pipeline": stages}


def timings(finished: Finished) -> Json:
    """The rest of `osai`, known at the end."""
    found = {"ttft_s": finished.ttft_s, "decode_tokens_per_s": finished.decode_tokens_per_s}
    return {name: value if isfinite(value) else None for name, value in found.items()}  # JSON has no infinity


def provenances(choices: Sequence[Choice]) -> Json:
    """`osai` of a plain answer: of the first choice, and of several a list of all."""
    each = [provenance(choice.started) | timings(choice.finished) for choice in choices if choice.started is not None]
    return each[0] if len(each) == 1 else each[0] | {"choices": each}
