"""A generation's tokens as its client sees them: text in step, stop strings, times. Pure but for the tokenizer."""

from osai.coordinator.api import Chunk, Finished, GeneratedToken
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.session import TokenEvent
from osai.coordinator.text import Detokenizer, StopMatcher, Tokenizer


class Transcript:
    """What has been generated so far.

    Args:
        started_s: when the request came, on the clock of `now_s`.
    """

    def __init__(self, tokenizer: Tokenizer, plan: GenerationPlan, started_s: float) -> None:
        self._tokenizer = tokenizer
        self._plan = plan
        self._detokenizer = Detokenizer(tokenizer, plan.prompt)
        self._matcher = StopMatcher(plan.stop)
        self._started_s = started_s
        self._first_s = self._last_s = started_s
        self._num_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._matcher.stopped

    def add(self, token: TokenEvent, now_s: float) -> Chunk:
        """One more token, and the text that may now be given."""
        self._last_s = now_s
        if self._num_tokens == 0:
            self._first_s = now_s
        text = self._matcher.add(self._detokenizer.add([token.token_id]))
        if token.finish is not None and not self.stopped:
            text += self._matcher.add(self._detokenizer.finish())
            text += self._matcher.finish()
        chunk = Chunk(index=self._num_tokens, tokens=(self._described(token),), text=text)
        self._num_tokens += 1
        return chunk

    def finished(self, reason: str) -> Finished:
        """The end of a complete generation."""
        span_s = self._last_s - self._first_s
        return Finished(
            reason=reason,
            num_prompt_tokens=len(self._plan.prompt),
            num_generated_tokens=self._num_tokens,
            ttft_s=self._first_s - self._started_s,
            decode_tokens_per_s=(self._num_tokens - 1) / span_s if span_s > 0 else 0.0,
        )

    def _described(self, token: TokenEvent) -> GeneratedToken:
        if token.logprob is None:
            return GeneratedToken(token_id=token.token_id, text="")
        return GeneratedToken(
            token_id=token.token_id,
            text=self._tokenizer.token_text(token.token_id),
            logprob=token.logprob,
            top=tuple((other, self._tokenizer.token_text(other), logprob) for other, logprob in token.top),
        )
