"""Supervision of one session: events and `now` in, actions out. Pure; the shell is osai.coordinator.generations."""

from dataclasses import dataclass

from osai.coordinator.api import StageView
from osai.core.errors import (
    CancelledError,
    DeadlineExceededError,
    OsaiError,
    PeerError,
    UnavailableError,
)
from osai.core.prefix import BLOCK_TOKENS, num_shareable_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionConfig:
    """How long a session may take for what.

    Attributes:
        open_s: until every stage has said that it is open; a stage may be in the middle of a long step.
        first_token_s: until the first token, and prompt_token_s more for each prompt token whose KV is not there yet.
        prompt_token_s: 20 tokens a second of prefill is slower than any node worth having.
        next_token_s: between tokens; above any step of a healthy pipeline, below a person's patience.
    """

    open_s: float = 10.0
    first_token_s: float = 30.0
    prompt_token_s: float = 0.05
    next_token_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """A token that the tail drew. `finish` is "stop" or "length" on the last one."""

    epoch: int
    index: int
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """Open the session on every stage."""


@dataclass(frozen=True, slots=True)
class SendPrompt:
    """Push the prompt's token ids to the head, from `position` on: every stage has the KV of those before it."""

    position: int = 0


@dataclass(frozen=True, slots=True)
class Emit:
    """Give a token to the client."""

    token: TokenEvent


@dataclass(frozen=True, slots=True)
class Close:
    """Close the session on every stage; `keep_kv`: what it computed is sound, and may serve later sessions."""

    keep_kv: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """The session is over: complete with a finish reason, or with an error."""

    reason: str = ""
    error: OsaiError | None = None


Action = Open | SendPrompt | Emit | Close | End


class Session:
    """One session on one pipeline."""

    def __init__(
        self, pipeline: tuple[StageView, ...], num_prompt_tokens: int, config: SupervisionConfig, now_s: float
    ) -> None:
        self.pipeline = pipeline
        self.epoch = 1
        self._config = config
        self._num_prompt_tokens = num_prompt_tokens
        self._waiting = {stage.node_id for stage in pipeline}  # not open yet
        self._num_tokens = 0
        self._num_cached_tokens = num_shareable_blocks(num_prompt_tokens) * BLOCK_TOKENS  # no more were asked for
        self._over = False
        self.deadline_s = now_s + config.open_s

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""
        return self._num_tokens

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the prompt whose KV every stage that is open has."""
        return self._num_cached_tokens

    def start(self) -> list[Action]:
        """Begin."""
        return [Open()]

    def opened(self, node_id: str, epoch: int, now_s: float, num_cached_tokens: int = 0) -> list[Action]:
        """A stage has set the session up, and has the KV of the prompt's first `num_cached_tokens`."""
        if self._over or epoch != self.epoch or node_id not in self._waiting:
            return []
        most = num_shareable_blocks(self._num_prompt_tokens) * BLOCK_TOKENS
        if not 0 <= num_cached_tokens <= most or num_cached_tokens % BLOCK_TOKENS:
            problem = f"claims the KV of {num_cached_tokens} prompt tokens; blocks of {BLOCK_TOKENS} up to {most} exist"
            return self._end(End(error=PeerError(f"node {node_id} {problem}", subject=node_id)))
        self._num_cached_tokens = min(self._num_cached_tokens, num_cached_tokens)
        self._waiting.remove(node_id)
        if self._waiting:
            return []
        num_to_compute = self._num_prompt_tokens - self._num_cached_tokens
        self.deadline_s = now_s + self._config.first_token_s + self._config.prompt_token_s * num_to_compute
        return [SendPrompt(self._num_cached_tokens)]

    def token(self, node_id: str, token: TokenEvent, now_s: float) -> list[Action]:
        """A token has come; only the tail's count."""
        if self._over or token.epoch != self.epoch or node_id != self.pipeline[-1].node_id:
            return []
        if self._waiting:
            return self._end(End(error=PeerError("the tail sent a token before it had the prompt", subject=node_id)))
        if token.index != self._num_tokens:
            problem = PeerError(f"the tail sent token {token.index} where {self._num_tokens} was due", subject=node_id)
            return self._end(End(error=problem))
        self._num_tokens += 1
        self.deadline_s = now_s + self._config.next_token_s
        if token.finish is None:
            return [Emit(token)]
        return [Emit(token), *self._end(End(reason=token.finish), keep_kv=True)]

    def failed(self, node_id: str, epoch: int, error: OsaiError) -> list[Action]:
        """A stage says that it can't go on."""
        return self._end(End(error=error)) if epoch == self.epoch and self._has(node_id) else []

    def lost(self, node_id: str, reason: OsaiError) -> list[Action]:
        """The link to a stage broke."""
        if not self._has(node_id):
            return []
        message = f"node {node_id} was lost after {self._num_tokens} tokens; try again"
        problem = UnavailableError(message, subject=node_id)
        problem.__cause__ = reason  # for the log: it holds the node's address, which clients are not told
        return self._end(End(error=problem))

    def cancel(self) -> list[Action]:
        """Nobody wants more: the client has gone, or a stop string has come."""
        end = End(error=CancelledError("the client cancelled the generation"))
        return self._end(end, keep_kv=not self._waiting)

    def tick(self, now_s: float) -> list[Action]:
        """Time passes."""
        if now_s < self.deadline_s:
            return []
        if self._waiting:
            late = ", ".join(sorted(self._waiting))
            return self._end(End(error=UnavailableError(f"not opened in time by {late}", subject=min(self._waiting))))
        problem = DeadlineExceededError(
            f"no token came in time after {self._num_tokens}; the pipeline may be overloaded"
        )
        return self._end(End(error=problem))

    def _has(self, node_id: str) -> bool:
        return any(stage.node_id == node_id for stage in self.pipeline)

    def _end(self, end: End, *, keep_kv: bool = False) -> list[Action]:
        if self._over:
            return []
        self._over = True
        return [Close(keep_kv), end]
