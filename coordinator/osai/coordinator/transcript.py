"""A generation's tokens as its client sees them: text in step, stop strings, times. Pure but for the tokenizer."""

from collections.abc import Sequence

from osai.coordinator.api import Chunk, Finished, GeneratedToken, KnownToken
from osai.coordinator.plan import GenerationPlan
from osai.coordinator.sessions.session import TokenEvent
from osai.coordinator.text import Detokenizer, StopMatcher, Tokenizer
from osai.core.errors import ContextExceededError


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
        self._num_replayed = 0  # of them; their times are unknown
        self._replayed_end: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come, or the replayed tokens end the generation: nothing may follow."""
        return self.reason is not None

    @property
    def reason(self) -> str | None:
        """Why it has `stopped`: "stop", or "length" of replayed tokens; None while more may come."""
        return "stop" if self._matcher.stopped else self._replayed_end

    def replay(self, tokens: Sequence[KnownToken]) -> None:
        """Take in what the client has already, before any `add`: the text of later chunks goes on exactly there.

        Raises:
            ContextExceededError: if these are more tokens than the generation may have.
        """
        known = len(self._plan.prompt) + len(tokens)
        if known > self._plan.max_total_tokens:
            raise ContextExceededError(
                f"{len(tokens)} tokens are known of a generation that may have "
                f"{self._plan.max_total_tokens - len(self._plan.prompt)}: begin it anew"
            )
        for token in tokens:
            self._matcher.add(self._detokenizer.add([token.token_id]))
        self._num_tokens = self._num_replayed = len(tokens)
        if tokens and tokens[-1].token_id in self._plan.stop_token_ids:
            self._replayed_end = "stop"
        elif tokens and known == self._plan.max_total_tokens:
            self._replayed_end = "length"
        if self.stopped:
            self._matcher.add(self._detokenizer.finish())  # a stop string may end in it, as in `add`

    def add(self, token: TokenEvent, now_s: float) -> Chunk:
        """One more token, and the text that may now be given."""
        self._last_s = now_s
        if self._num_tokens == self._num_replayed:
            self._first_s = now_s
        text = self._matcher.add(self._detokenizer.add([token.token_id]))
        if token.finish is not None and not self.stopped:
            text += self._matcher.add(self._detokenizer.finish())
            text += self._matcher.finish()
        chunk = Chunk(index=self._num_tokens, tokens=(self._described(token),), text=text)
        self._num_tokens += 1
        return chunk

    def finished(self, reason: str, *, num_recoveries: int = 0) -> Finished:
        """The end of a complete generation; its times are those of the tokens that were not replayed."""
        span_s = self._last_s - self._first_s
        num_timed = self._num_tokens - self._num_replayed
        return Finished(
            reason=reason,
            num_prompt_tokens=len(self._plan.prompt),
            num_generated_tokens=self._num_tokens,
            ttft_s=self._first_s - self._started_s,
            decode_tokens_per_s=(num_timed - 1) / span_s if span_s > 0 else 0.0,
            num_recoveries=num_recoveries,
            stop=self._matcher.found,
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
