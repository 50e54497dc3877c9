"""One epoch of a session, from the opening of its stages until all have said where they stand. Pure."""

from osai.coordinator.sessions.actions import Open, Opened, OpenKind
from osai.coordinator.sessions.recovery import StageStart, Standing, check_standing, plan_resume
from osai.core.errors import PeerError
from osai.core.prefix import BLOCK_TOKENS, num_shareable_blocks


class Opening:
    """Gathers the stages' answers to one Open."""

    def __init__(self, opened: Open) -> None:
        self.open = opened
        self.waiting = {stage.node_id for stage in opened.pipeline}
        self._answers: dict[str, Opened] = {}

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of a new session's prompt whose KV every stage has; all that were asked for before any answered."""
        most = num_shareable_blocks(self.open.num_prompt_tokens) * BLOCK_TOKENS
        return min((answer.num_cached_tokens for answer in self._answers.values()), default=most)

    def opened(self, node_id: str, answer: Opened) -> None:
        """A stage has answered.

        Raises:
            PeerError: if its answer can't be.
        """
        if self.open.kind is OpenKind.RESUME:
            check_standing(_standing(answer), self.open.num_known_tokens - 1)
        else:
            self._check_cached(answer.num_cached_tokens)
        self.waiting.discard(node_id)
        self._answers[node_id] = answer

    def starts(self) -> tuple[StageStart, ...]:
        """Where each stage begins, once none is waited for; a new session's all where the least of them can."""
        if self.open.kind is OpenKind.RESUME:
            return plan_resume([_standing(self._answers[stage.node_id]) for stage in self.open.pipeline])
        at = self.num_cached_tokens
        return (StageStart(position=at, push_from=at),) * len(self.open.pipeline)

    def _check_cached(self, num_cached_tokens: int) -> None:
        most = num_shareable_blocks(self.open.num_prompt_tokens) * BLOCK_TOKENS
        if not 0 <= num_cached_tokens <= most or num_cached_tokens % BLOCK_TOKENS:
            raise PeerError(
                f"claims the KV of {num_cached_tokens} prompt tokens; blocks of {BLOCK_TOKENS} up to {most} exist"
            )


def _standing(answer: Opened) -> Standing:
    return Standing(position=answer.position, journal_begin=answer.journal_begin)
