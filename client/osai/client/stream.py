"""The order of a generation's events, checked: a truncated or garbled stream never looks complete. Pure."""

from osai.client import events, wire
from osai.client.lost import CoordinatorLostError
from osai.core.errors import BadFrameError
from osai.proto import client_pb2


class GenerationStream:
    """One Started, Chunks whose indices are contiguous, one Finished whose count is theirs; nothing after it.

    Rerouted may come between Started and Finished, Waiting anywhere before Finished.

    Args:
        num_tokens: known before, where a generation is resumed.

    Attributes:
        num_tokens: tokens so far.
        num_new_tokens: those of this stream.
        started: Started has come.
        finished: Finished has come: the generation is complete.
    """

    def __init__(self, num_tokens: int = 0) -> None:
        self.num_tokens = num_tokens
        self.num_new_tokens = 0
        self.started = False
        self.finished = False

    def accept(self, event: client_pb2.GenerateEvent) -> events.GenerationEvent:
        """The next event.

        Raises:
            BadFrameError: if it can't follow what came before.
        """
        kind = event.WhichOneof("kind")
        if self.finished or (self.started == (kind == "started") and kind != "waiting"):
            raise BadFrameError(f"the coordinator sent {kind or 'an unknown event'} out of order")
        match kind:
            case "started":
                self.started = True
                return wire.started_of(event.started)
            case "chunk":
                return self._chunk(wire.chunk_of(event.chunk))
            case "rerouted":
                return wire.rerouted_of(event.rerouted)
            case "waiting":
                return wire.waiting_of(event.waiting)
            case "finished":
                return self._finish(wire.finished_of(event.finished))
            case _:
                raise BadFrameError("the coordinator sent an event that this release does not know")

    def end(self) -> None:
        """The peer ended the stream without an error.

        Raises:
            CoordinatorLostError: if the generation is not complete.
        """
        if not self.finished:
            raise CoordinatorLostError(f"the stream ended after {self.num_tokens} tokens, before the end: try again")

    def _chunk(self, chunk: events.Chunk) -> events.Chunk:
        if chunk.index != self.num_tokens:
            raise BadFrameError(f"token {chunk.index} arrived where token {self.num_tokens} was due")
        self.num_tokens += len(chunk.tokens)
        self.num_new_tokens += len(chunk.tokens)
        return chunk

    def _finish(self, finished: events.Finished) -> events.Finished:
        if finished.usage.num_generated_tokens != self.num_tokens:
            claimed = finished.usage.num_generated_tokens
            raise BadFrameError(f"the coordinator says it sent {claimed} tokens, {self.num_tokens} arrived")
        self.finished = True
        return finished
