"""What a client has of one generation, whichever coordinators ran it: enough to go on with it elsewhere. Pure."""

from dataclasses import replace

from osai.client import wire
from osai.client.completion import CompletionBuilder
from osai.client.events import Chunk, Finished, GenerationEvent, Rerouted, Started, Timings
from osai.client.request import check_version, features_of
from osai.client.stream import GenerationStream
from osai.core.errors import BadFrameError, OsaiError, UnavailableError
from osai.core.rpc import CLIENT_API_MAX_BYTES
from osai.proto import client_pb2

MAX_ATTEMPT = 0xFFFE  # an attempt is the upper half of a 32-bit epoch


class Progress:
    """Makes the requests of one generation, and one row of events of all the coordinators' answers.

    Args:
        request: as the caller asked.
        now_s: monotonic time.

    Attributes:
        stream: the answer that is being read.
        started: the first one; the caller has seen it.
    """

    def __init__(self, request: client_pb2.GenerateRequest, now_s: float) -> None:
        self.stream = GenerationStream()
        self.started: Started | None = None
        self._request = request
        self._builder = CompletionBuilder(with_logprobs=request.sampling.HasField("num_logprobs"))
        self._attempt = 0
        self._begun_s = now_s
        self._first_s: float | None = None
        self._last_s = now_s
        self._lost_s = now_s
        self._lost_because = ""
        self._num_recoveries = 0  # before this answer's

    @property
    def is_limited(self) -> bool:
        """Whether nodes of some operators alone may serve it."""
        return bool(self._request.trusted_operators)

    def check_version(self, address: str, version: int) -> None:
        """Raises ProtocolMismatchError where a coordinator of that version does not know all that is asked for."""
        check_version(self._request, address, version)

    @property
    def has_features(self) -> bool:
        """Whether it asks for what older coordinators do not know."""
        return bool(features_of(self._request))

    @property
    def has_tokens(self) -> bool:
        """Whether the caller has seen any."""
        return bool(self._builder.tokens)

    def next_request(self) -> client_pb2.GenerateRequest:
        """What to ask the next coordinator: the same again while nothing was shown, else to go on from here.

        Raises:
            UnavailableError: if it has been resumed too often.
        """
        self.stream = GenerationStream(len(self._builder.tokens))
        if self.started is None:
            return self._request
        if self._attempt == MAX_ATTEMPT:
            raise UnavailableError(f"the generation was resumed {MAX_ATTEMPT} times: begin it anew")
        self._attempt += 1
        request = client_pb2.GenerateRequest()
        request.CopyFrom(self._request)
        request.model_id = self.started.model_id
        request.resume.CopyFrom(self._resume(self.started))
        # logprobs are for the record: without them the tokens of any context fit
        for field in ("top", "logprob"):
            if request.ByteSize() > CLIENT_API_MAX_BYTES:
                for token in request.resume.tokens:
                    token.ClearField(field)
        return request

    def _resume(self, started: Started) -> client_pb2.Resume:
        return client_pb2.Resume(
            session_id=started.session_id,
            attempt=self._attempt,
            seed=started.seed,
            tokens=wire.tokens_to_proto(self._builder.tokens),
            pipeline=wire.stages_to_proto(self._builder.pipeline),
        )

    def accept(self, told: client_pb2.GenerateEvent, now_s: float) -> GenerationEvent:
        """The next event, as the caller is to see it.

        Raises:
            BadFrameError: if it can't follow what came before.
        """
        event = self.stream.accept(told)
        match event:
            case Started():
                event = self._opened(event, now_s)
            case Chunk() if event.tokens:
                self._first_s = now_s if self._first_s is None else self._first_s
                self._last_s = now_s
            case Finished() if self._attempt:
                num_recoveries = self._num_recoveries + event.num_recoveries
                event = replace(event, timings=self._timings(), num_recoveries=num_recoveries)
        self._builder.add(event)
        return event

    def lost(self, because: str, now_s: float) -> None:
        """No coordinator runs it, from the first loss after the last opening on."""
        if not self._lost_because:
            self._lost_s = now_s
            self._lost_because = because

    def failed(self, error: OsaiError) -> None:
        """`error` ends the generation; what there is of it becomes its attribute `partial`."""
        error.partial = self._builder.partial(self._timings())  # type: ignore[attr-defined]

    def _opened(self, started: Started, now_s: float) -> Started | Rerouted:
        """The first Started is the caller's; a later one tells that the generation goes on."""
        first = self.started or started
        if (first.seed, first.num_prompt_tokens) != (started.seed, started.num_prompt_tokens):
            raise BadFrameError("the coordinator went on with another generation than it was asked to: begin it anew")
        # the session may have got another number, under which it is known from now on
        is_first, self.started = self.started is None, replace(first, session_id=started.session_id)
        reason, self._lost_because = self._lost_because, ""
        if is_first:
            return started
        self._num_recoveries = self._builder.num_recoveries + 1
        return Rerouted(pipeline=started.pipeline, reason=reason, pause_s=now_s - self._lost_s)

    def _timings(self) -> Timings:
        """As the caller saw it, pauses included."""
        if self._first_s is None:
            return Timings(ttft_s=0.0, decode_tokens_per_s=0.0)
        span_s = self._last_s - self._first_s
        rate = (len(self._builder.tokens) - 1) / span_s if span_s > 0 else 0.0
        return Timings(ttft_s=self._first_s - self._begun_s, decode_tokens_per_s=rate)
