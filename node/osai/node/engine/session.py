"""A session as one span sees it."""

from dataclasses import dataclass, field

from osai.core.errors import InvalidRequestError
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Rows, SessionSpec
from osai.node.engine.constraint import Constraint
from osai.node.engine.kv_span import SessionKV
from osai.node.engine.pooling import Pool
from osai.node.engine.sampling import Draw
from osai.node.engine.scheduler import Chunk


@dataclass(slots=True)
class TailState:
    """What the tail knows of the tokens so far. Only the engine thread touches it.

    Attributes:
        params: how tokens are drawn.
        prompt: the prompt's tokens, if a penalty needs them.
        generated: the tokens generated, if a penalty needs them.
        constraint: the session's grammar, if it has one.
        pool: gathers the prompt's vector, if that is all that is wanted.
    """

    params: SamplingParams
    prompt: tuple[int, ...] = ()
    generated: list[int] = field(default_factory=list)
    constraint: Constraint | None = None
    pool: Pool | None = None

    def draw(self, index: int, position: int) -> Draw:
        """What decides the generated token of that index, which is at `position`; but for its mask, which is begun.

        Raises:
            InvalidRequestError: if a penalty or a grammar needs earlier tokens that this tail was not told.
        """
        if self.params.needs_history and index > len(self.generated):
            raise InvalidRequestError(
                f"token {index} needs the {index} before it for its penalties, and {len(self.generated)} are known: "
                "put those generated elsewhere behind the prompt in prompt_token_ids"
            )
        if self.constraint is not None:
            self.constraint.prepare(index)
        return Draw(params=self.params, position=position, prompt=self.prompt, generated=self.generated[:index])

    def note(self, index: int, token_id: int) -> bool:
        """Remember a token; what was generated from its index on was cut. Whether the grammar ends with it.

        Raises:
            InvalidRequestError: if the grammar turns out to be too big.
        """
        if self.params.needs_history:
            self.generated[index:] = [token_id]
        if self.constraint is None:
            return False
        self.constraint.note(index, token_id)
        return self.constraint.has_ended


@dataclass(slots=True, eq=False)
class Session:
    """An open session.

    Attributes:
        spec: what the shell asked for last.
        kv: its keys and values.
        tail: None unless the span is the tail.
        next_position: of the next row that fits without a cut; the event loop's.
    """

    spec: SessionSpec
    kv: SessionKV
    tail: TailState | None
    next_position: int = field(default=0)

    def finish(self, index: int, token_id: int) -> str | None:
        """Why generation ends with the token of that index, or None if it goes on."""
        if token_id in self.spec.stop_token_ids:
            return "stop"
        return "length" if self.spec.num_prompt_tokens + index + 1 >= self.spec.max_total_tokens else None


@dataclass(slots=True, eq=False)
class StepPart:
    """One session's chunk in a step.

    Attributes:
        session: whose.
        chunk: its rows.
        cut_at: the lowest position to which the session was cut back since the step was taken, if that is among the
            rows or before them; 0 if it was closed. The event loop's.
    """

    session: Session
    chunk: Chunk
    cut_at: int | None = None

    @property
    def kv(self) -> SessionKV:
        """The session's KV."""
        return self.session.kv

    @property
    def rows(self) -> Rows:
        """The chunk's rows."""
        return self.chunk.rows

    @property
    def stale(self) -> bool:
        """Whether some of the rows were cut, or the session closed, since the step was taken."""
        return self.cut_at is not None

    @property
    def num_good(self) -> int:
        """Rows, from the first on, that were not."""
        return self.rows.count if self.cut_at is None else max(0, self.cut_at - self.rows.position)

    def cut(self, position: int) -> None:
        """The session was cut back to `position`."""
        if position < self.rows.position + self.rows.count:
            self.cut_at = position if self.cut_at is None else min(self.cut_at, position)


def tail_state(spec: SessionSpec, vocab_size: int) -> TailState:
    """The tail's state of a new session. Tokens behind the prompt in prompt_token_ids were generated elsewhere.

    Args:
        spec: the session.
        vocab_size: of the model.

    Raises:
        InvalidRequestError: if there are no sampling parameters, one of them names a token that there is not, or a
            penalty needs a prompt that is not there.
    """
    params = spec.sampling
    if params is None:
        raise InvalidRequestError(f"session {spec.session}: the tail needs sampling parameters")
    params.check_vocabulary(vocab_size)
    pool = Pool(spec.pooling, spec.num_prompt_tokens) if spec.pooling else None
    if not params.needs_history:
        return TailState(params, constraint=spec.constraint, pool=pool)
    count, ids = spec.num_prompt_tokens, spec.prompt_token_ids
    if len(ids) < spec.num_known_tokens:
        raise InvalidRequestError(
            f"session {spec.session}: its penalties need the prompt's {count} tokens and the "
            f"{spec.num_known_tokens - count} that are generated already, prompt_token_ids has {len(ids)}"
        )
    return TailState(params, ids[:count], list(ids[count:]), spec.constraint, pool)
