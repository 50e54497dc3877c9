"""One session as a stage sees it, and the ways that its rows take from here. Pure."""

from dataclasses import dataclass, field

from osai.core.sampling import SamplingParams
from osai.node.engine.api import SessionSpec
from osai.node.stages.stage import HostedSpan, OpenRequest, Peer


@dataclass(slots=True, eq=False)
class Way:
    """Where rows of one session are pushed, in their order, each once.

    Attributes:
        peer: who gets them.
        next_row: those before it are pushed, or not wanted.
        replaying: a replay is to catch up with what has landed; if not, rows are pushed as they land.
        decode: name of the lane for decode rows: quicker to compare than the peer.
        prefill: name of the lane for prefill rows.
    """

    peer: Peer
    next_row: int
    replaying: bool = False
    decode: str = field(init=False)
    prefill: str = field(init=False)

    def __post_init__(self) -> None:
        name = f"{self.peer.node_id} {self.peer.address}"
        self.decode, self.prefill = f"decode {name}", f"prefill {name}"


@dataclass(slots=True, eq=False)
class StageSession:
    """An open session in its epoch.

    Attributes:
        request: what its owner asked for last.
        span: the span that runs it.
        scope: whose KV it may share, from when the engine took it.
        owner: number of the owner's link; None for an orphan.
        owner_scope: whose KV the owner may name.
        num_known: rows before this position are prefill.
        landed: rows before it are through the engine.
        due: the next row that comes in; None before the first of the epoch.
        before: `landed` and `due` as they were before the rows that were let run last.
        waiting: it is to be told where the epoch begins (ResumeRequest), and runs nothing before.
        successor: where rows go; None where they go nowhere, or the way is lost.
        follower: the successor's standby.
        orphaned_s: since when it has no owner.
        reported: what a standby's owner was told last.
    """

    request: OpenRequest
    span: HostedSpan
    scope: str
    owner: int | None
    owner_scope: str
    num_known: int
    landed: int = 0
    due: int | None = None
    before: tuple[int, int | None] = (0, None)
    waiting: bool = False
    successor: Way | None = None
    follower: Way | None = None
    orphaned_s: float = 0.0
    reported: int = 0

    @property
    def number(self) -> int:
        """The session's on every edge."""
        return self.request.session

    @property
    def is_tail(self) -> bool:
        """Whether its rows end here, as logits."""
        return self.span.layers.end == self.span.num_layers

    @property
    def epoch(self) -> int:
        """The only one whose rows count."""
        return self.request.epoch


def spec_of(request: OpenRequest, span: HostedSpan, scope: str) -> SessionSpec:
    """The session as the engine is to run it. What sampling needs is the tail's alone; its standby draws nothing."""
    is_tail = span.layers.end == span.num_layers
    draws = is_tail and not request.follow
    return SessionSpec(
        session=request.session,
        span=span.key,
        num_prompt_tokens=request.num_prompt_tokens,
        max_total_tokens=request.max_total_tokens,
        sampling=request.sampling if draws else SamplingParams() if is_tail else None,
        stop_token_ids=request.stop_token_ids if draws else frozenset(),
        prompt_token_ids=request.prompt_token_ids if draws else (),
        block_hashes=request.block_hashes,
        scope=scope,
        num_stages=request.num_stages,
        num_known_tokens=request.max_total_tokens if request.follow else request.num_known,
        pooling=request.pooling if draws else None,
    )
