"""One choice of an answer: its text and calls, as they come. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from osai.coordinator.api import Chunk, Finished, GeneratedToken, Started, ToolCall
from osai.coordinator.tool_calls.calls import CallParser, Piece
from osai.core.errors import InternalError


@dataclass(slots=True)
class Choice:
    """What one generation has given so far.

    Attributes:
        index: among the choices.
        parser: of its calls; None where no tool can be called.
        new_id: gives a call its id.
        texts: its text, in pieces.
        tokens: kept only where they are wanted for logprobs; `num_tokens` counts them anyway.
    """

    index: int
    parser: CallParser | None = None
    new_id: Callable[[], str] = str
    keeps_tokens: bool = False
    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    tokens: list[GeneratedToken] = field(default_factory=list)
    num_tokens: int = 0
    started: Started | None = None
    ended: Finished | None = None

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(self.texts)

    @property
    def reason(self) -> str:
        """OpenAI's `finish_reason`."""
        reason = self.finished.reason
        return "tool_calls" if self.calls and reason == "stop" else reason

    @property
    def finished(self) -> Finished:
        """Its end; raises InternalError before."""
        if self.ended is None:
            raise InternalError("the generation broke off before it was complete; try again")
        return self.ended

    def add(self, chunk: Chunk) -> Sequence[str | ToolCall]:
        """Text and complete calls that some tokens give."""
        self.num_tokens += len(chunk.tokens)
        if self.keeps_tokens:
            self.tokens.extend(chunk.tokens)
        if self.parser is not None:
            return self._kept(self.parser.add(chunk.text))
        if not chunk.text:
            return ()
        self.texts.append(chunk.text)
        return (chunk.text,)

    def finish(self, finished: Finished) -> Sequence[str | ToolCall]:
        """What is left at its end."""
        self.ended = finished
        return self._kept(self.parser.finish()) if self.parser is not None else ()

    def _kept(self, pieces: Sequence[Piece]) -> list[str | ToolCall]:
        kept: list[str | ToolCall] = []
        for piece in pieces:
            if isinstance(piece, str):
                self.texts.append(piece)
                kept.append(piece)
            else:
                call = ToolCall(call_id=self.new_id(), name=piece.name, arguments=piece.arguments)
                self.calls.append(call)
                kept.append(call)
        return kept
