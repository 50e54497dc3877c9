"""What the stage of a pipeline speaks of: peers, spans, wishes for sessions, and what follows from them. Plain data."""

from dataclasses import dataclass

from osai.core.errors import OsaiError
from osai.core.grammar import Grammar
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Rows, Sampled, SessionSpec
from osai.node.engine.pooling import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A node on an edge: its id and HOST:PORT."""

    node_id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostedSpan:
    """A span that this node serves.

    Attributes:
        key: the engine's name for it; here the model's id, since a node hosts one span of a model.
        manifest_digest: SHA-256 of the manifest's signed part; every stage of a pipeline must have the same.
    """

    key: str
    layers: LayerRange
    num_layers: int
    manifest_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A coordinator's wish to run a session through this stage.

    Attributes:
        prompt_token_ids: the prompt, and what was generated before this epoch, where a penalty or a grammar needs it.
        block_hashes: of the prompt, see osai.core.prefix.
        num_stages: of the pipeline.
        num_known_tokens: prompt and generated tokens known as the epoch begins; 0 stands for those of the prompt.
        resume: what is here of the session stays; it pushes nothing until a ResumeRequest comes.
        follow: as a standby, which pushes and draws nothing.
        grammar: what is generated must be of it; the tail's alone.
        pooling: nothing is generated; the tail makes a vector of the prompt.
    """

    session: int
    epoch: int
    model_id: str
    layers: LayerRange
    manifest_digest: bytes
    successor: Peer
    num_prompt_tokens: int
    max_total_tokens: int
    sampling: SamplingParams
    stop_token_ids: frozenset[int]
    prompt_token_ids: tuple[int, ...]
    block_hashes: tuple[bytes, ...] = ()
    num_stages: int = 1
    num_known_tokens: int = 0
    resume: bool = False
    follow: bool = False
    grammar: Grammar | None = None
    pooling: Pooling | None = None

    @property
    def num_known(self) -> int:
        """Tokens known as the epoch begins: rows before this position are prefill."""
        return self.num_known_tokens or self.num_prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How the engine is to take a session.

    Attributes:
        cut_to: it is open there already, and goes on from this row; None: it is new.
    """

    spec: SessionSpec
    cut_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowRequest:
    """A coordinator's wish that a session's rows from `follow_from` on go to a standby of the successor too.

    Attributes:
        follower: None: to none any more.
    """

    session: int
    epoch: int
    follower: Peer | None
    follow_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """An epoch begins.

    Attributes:
        position: of the next row; later ones that are here are forgotten.
        push_from: rows from here on go to the successor.
        follow: and to a standby of it; None where there is none.
    """

    session: int
    epoch: int
    position: int
    push_from: int
    follow: FollowRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Push hidden rows to the successor; `slices` are their places in the step's hidden states, neighbours joined."""

    peer: Peer
    prefill: bool
    rows: tuple[Rows, ...]
    slices: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Copy rows of the step's hidden states into the journal; `starts` are their places."""

    rows: tuple[Rows, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Push rows that the journal holds to the successor, or to its standby: those that StageTable.next_replay names."""

    session: int
    epoch: int
    to_follower: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """Give drawn tokens back to the head as its next input."""

    peer: Peer
    rows: tuple[Rows, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Give drawn tokens to the coordinator that owns their sessions."""

    owner: int
    tokens: tuple[Sampled, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Tell the owner of a standby's session that rows before `position` are through."""

    owner: int
    session: int
    epoch: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Tell the owner that a session can't go on, or its standby can't follow.

    Attributes:
        open: its KV and journal stay, and it can go on in a later epoch.
    """

    owner: int
    session: int
    epoch: int
    error: OsaiError
    open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Free what is held of a session; the KV of the blocks named may serve later ones."""

    session: int
    block_hashes: tuple[bytes, ...] = ()


Action = Forward | Keep | Replay | Return | Deliver | Report | Fail | Release
