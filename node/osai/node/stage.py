"""What the stage of a pipeline speaks of: peers, spans, wishes for sessions, and what follows from them. Plain data."""

from dataclasses import dataclass

from osai.core.errors import OsaiError
from osai.core.layers import LayerRange
from osai.core.sampling import SamplingParams
from osai.node.engine.api import Rows, Sampled


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
        block_hashes: of the prompt, see osai.core.prefix.
        num_stages: of the pipeline.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Push hidden rows to the successor; `slices` are their places in the step's hidden states, neighbours joined."""

    peer: Peer
    prefill: bool
    rows: tuple[Rows, ...]
    slices: tuple[tuple[int, int], ...]


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
class Fail:
    """Tell the owner that a session can't go on."""

    owner: int
    session: int
    epoch: int
    error: OsaiError


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Free what the engine holds of a session; the KV of the blocks named may serve later ones."""

    session: int
    block_hashes: tuple[bytes, ...] = ()


Action = Forward | Return | Deliver | Fail | Release
