"""What a chunk plan is told at its start, and what follows from it. Pure data."""

from dataclasses import dataclass

from osai.node.weights.blames import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """How chunks are asked for.

    Attributes:
        per_peer: requests that one peer has at a time; the next is on its way while one is answered.
        from_peers: requests to all peers together.
        from_source: reads of the source at a time.
        deadline_s: of a request to a peer, and what its bytes take at `slow_bytes_s` on top.
        source_deadline_s: of a read of the source, likewise; the source has deadlines of its own.
        slow_bytes_s: a peer that gives a large chunk more slowly does not keep this node from the source.
        patience_s: for which a peer may give nothing, or whom others wait for may get nothing.
        settle_s: between the moment at which others can ask what this node wants, and its first read of the source: by
            then the nodes that join together know of each other.
        hear_s: for which the source is left alone after a new peer has come, unless that says sooner what it has.
        stale_s: what a peer that fetches too has said is good for so long; then it is waited for to say more, as above.
        idle_s: for which this node waits for others in all, before it takes over what the slowest was to fetch.
        rest_s, max_rest_s: for which a peer is left alone after a failure; it doubles.
        source_tries: reads of one chunk.
    """

    per_peer: int = 2
    from_peers: int = 8
    from_source: int = 4
    deadline_s: float = 15.0
    source_deadline_s: float = 120.0
    slow_bytes_s: float = 256 * 2**10
    patience_s: float = 10.0
    settle_s: float = 3.0
    hear_s: float = 5.0
    stale_s: float = 2.0
    idle_s: float = 30.0
    rest_s: float = 0.5
    max_rest_s: float = 8.0
    source_tries: int = 3


@dataclass(frozen=True, slots=True)
class AskPeer:
    """Fetch a chunk from a peer."""

    request: int
    peer: str
    chunk: int


@dataclass(frozen=True, slots=True)
class AskSource:
    """Read a chunk from the source."""

    request: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """A request is of no use any more; what it brings is not to be used."""

    request: int


@dataclass(frozen=True, slots=True)
class Keep:
    """What a request has brought is the chunk: hand it out, and keep it."""

    request: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Blame:
    """A peer has failed this node; `banned`: for the last time."""

    peer: str
    fault: Fault
    chunk: int
    banned: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A chunk that is waited for can't be had."""

    chunk: int
    reason: str


Action = AskPeer | AskSource | Cancel | Keep | Blame | GiveUp
