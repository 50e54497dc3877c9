"""A whole generation, put together from its events; or what there was of it when an error ended it."""

from osai.client.events import (
    Chunk,
    Completion,
    EndReason,
    Finished,
    GenerationEvent,
    Rerouted,
    Stage,
    Started,
    Timings,
    Token,
    Usage,
)
from osai.core.errors import OsaiError, UnavailableError


class CompletionBuilder:
    """Collects the events of one generation, in order.

    Args:
        with_logprobs: whether logprobs were asked for.

    Attributes:
        tokens: so far.
        pipeline: the last one that is known.
        num_recoveries: pipelines and coordinators that it went on over, as far as events told.
    """

    def __init__(self, *, with_logprobs: bool) -> None:
        self.tokens: list[Token] = []
        self.pipeline: tuple[Stage, ...] = ()
        self.num_recoveries = 0
        self._with_logprobs = with_logprobs
        self._started: Started | None = None
        self._texts: list[str] = []
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event."""
        match event:
            case Started():
                self._started = event
                self.pipeline = event.pipeline
            case Chunk():
                self.tokens.extend(event.tokens)
                self._texts.append(event.text)
            case Rerouted():
                self.pipeline = event.pipeline
                self.num_recoveries += 1
            case Finished():
                self._finished = event
                self.num_recoveries = event.num_recoveries

    def completion(self) -> Completion:
        """The whole.

        Raises:
            UnavailableError: if it is not complete.
        """
        if self._started is None or self._finished is None:
            raise UnavailableError("the generation is not complete: try again")
        finished = self._finished
        return self._built(self._started, finished.finish_reason, finished.usage, finished.timings)

    def partial(self, timings: Timings) -> Completion | None:
        """What there is of it, for the error that ended it; None where there is no token yet."""
        if self._started is None or not self.tokens:
            return None
        usage = Usage(num_prompt_tokens=self._started.num_prompt_tokens, num_generated_tokens=len(self.tokens))
        return self._built(self._started, "error", usage, timings)

    def _built(self, started: Started, reason: EndReason, usage: Usage, timings: Timings) -> Completion:
        return Completion(
            model_id=started.model_id,
            seed=started.seed,
            token_ids=tuple(token.token_id for token in self.tokens),
            text="".join(self._texts),
            finish_reason=reason,
            usage=usage,
            timings=timings,
            pipeline=self.pipeline,
            logprobs=tuple(self.tokens) if self._with_logprobs else None,
            num_cached_tokens=started.num_cached_tokens,
            num_recoveries=self.num_recoveries,
        )


def partial_of(error: OsaiError) -> Completion | None:
    """What was generated before `error` ended the generation, which is also its attribute `partial`; None: nothing."""
    partial = getattr(error, "partial", None)
    return partial if isinstance(partial, Completion) else None
