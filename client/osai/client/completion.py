"""A whole generation, put together from its events."""

from osai.client.events import Chunk, Completion, Finished, GenerationEvent, Started, Token
from osai.core.errors import UnavailableError


class CompletionBuilder:
    """Collects the events of one generation, in order.

    Args:
        with_logprobs: whether logprobs were asked for.
    """

    def __init__(self, *, with_logprobs: bool) -> None:
        self._with_logprobs = with_logprobs
        self._started: Started | None = None
        self._tokens: list[Token] = []
        self._texts: list[str] = []
        self._finished: Finished | None = None

    def add(self, event: GenerationEvent) -> None:
        """Take the next event."""
        match event:
            case Started():
                self._started = event
            case Chunk():
                self._tokens.extend(event.tokens)
                self._texts.append(event.text)
            case Finished():
                self._finished = event

    def completion(self) -> Completion:
        """The whole.

        Raises:
            UnavailableError: if it is not complete.
        """
        if self._started is None or self._finished is None:
            raise UnavailableError("the generation is not complete: try again")
        return Completion(
            model_id=self._started.model_id,
            seed=self._started.seed,
            token_ids=tuple(token.token_id for token in self._tokens),
            text="".join(self._texts),
            finish_reason=self._finished.finish_reason,
            usage=self._finished.usage,
            timings=self._finished.timings,
            pipeline=self._started.pipeline,
            logprobs=tuple(self._tokens) if self._with_logprobs else None,
            num_cached_tokens=self._started.num_cached_tokens,
        )
