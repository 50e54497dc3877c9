"""What happens to a session, and what is to be done for it: the data between the session and its shell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from osai.coordinator.api import Rerouted, StageView, Waiting
from osai.core.errors import OsaiError
from osai.core.layers import LayerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """A token that the tail drew. `finish` is "stop" or "length" on the last one.

    Of a session that makes a vector, the one event: `embedding` is the vector, float32, little-endian.
    """

    epoch: int
    index: int
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: str | None = None
    embedding: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A stage or a standby has set the session up.

    Attributes:
        num_cached_tokens: of a new session's prompt, whose KV the stage has.
        position: rows before it are there; of a session that goes on.
        journal_begin: outputs of rows [journal_begin, position) can be pushed again.
    """

    epoch: int
    num_cached_tokens: int = 0
    position: int = 0
    journal_begin: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A pipeline; `resumable`: all its nodes can go on with a session that they hold or have not seen."""

    pipeline: tuple[StageView, ...]
    resumable: bool = True


class OpenKind(Enum):
    """How an epoch begins."""

    NEW = "new"  # the session's first
    RESUME = "resume"  # stages keep what they hold
    RESTART = "restart"  # under another number, all known tokens as its prompt: nodes that know of no later epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Detour:
    """What a pipeline or a standby is to keep clear of, and who holds the session's KV; see RouteWish."""

    avoid: frozenset[str] = frozenset()
    avoid_edges: frozenset[tuple[str, str]] = frozenset()
    suspects: frozenset[str] = frozenset()
    kept: Mapping[str, LayerRange] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindPipeline:
    """Answer at once with `Session.pipeline_found` or `Session.no_pipeline`."""

    detour: Detour


@dataclass(frozen=True, slots=True, kw_only=True)
class FindStandby:
    """Look for a node of the span of `stage`, and answer at once with `Session.standby_found`."""

    stage: StageView
    detour: Detour


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Open the session on every stage."""

    pipeline: tuple[StageView, ...]
    epoch: int
    kind: OpenKind
    num_prompt_tokens: int
    num_known_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFollower:
    """Open the session on a standby of stage `index` of the pipeline."""

    follower: StageView
    index: int
    pipeline: tuple[StageView, ...]
    epoch: int
    resume: bool
    num_prompt_tokens: int
    num_known_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Let a stage go on: with the row at `position`, pushing outputs of rows from `push_from` on."""

    stage: StageView
    epoch: int
    position: int
    push_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Let a stage push to a standby of its successor too, from `follow_from` on; to none any more where it is None."""

    stage: StageView
    epoch: int
    follower: StageView | None
    follow_from: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SendIds:
    """Push the ids of the known tokens [position, end) to a head or its standby."""

    stage: StageView
    epoch: int
    position: int
    end: int


@dataclass(frozen=True, slots=True)
class Begin:
    """The session is open for the first time: tell the client."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Give a token to the client."""

    token: TokenEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Close the session on these stages; `keep_kv`: what it computed there is sound, and may serve later sessions."""

    stages: tuple[StageView, ...]
    epoch: int
    keep_kv: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """The session is over: complete with a finish reason, or with an error."""

    reason: str = ""
    error: OsaiError | None = None


Action = (
    FindPipeline | FindStandby | Open | OpenFollower | Resume | Follow | SendIds | Begin | Emit | Close | End
    | Rerouted | Waiting
)  # fmt: skip
