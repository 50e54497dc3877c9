"""The peers of a chunk plan: what they have, what they seek, and how they have fared. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from osai.node.weights import bits
from osai.node.weights.blames import Blames, Fault
from osai.node.weights.election import weights_of, wins_over
from osai.node.weights.plan_actions import PlanConfig

MAX_LOOKED_AT = 256  # chunks that others are to fetch, of which the one in charge is worked out at a time
MAX_UNHEARD = 64  # nodes that have not said yet what they have: anybody may name some
SLOW_COUNTS_BYTES = 2**20  # the time of smaller chunks is that of the way


@dataclass(slots=True, kw_only=True)
class PeerView:
    """One peer as this node sees it.

    Attributes:
        held, sought, fetching: sets of chunks, as it says.
        goes_before: set of the chunks for which it is elected before this node.
        num_asked: requests that it has not answered.
        rest_s: for which it will be left alone after its next failure.
        vain_since_s: since when it has given nothing of what it was asked for.
        told_s: when it said so.
        grown_s: when it last had more chunks, or more became its to fetch.
        is_slow: it gave its last large chunk slowly.
        lags: it has got nothing for long.
        passed_over: nobody waits for it any more.
    """

    peer: str
    goes_before: int
    grown_s: float
    rest_s: float
    told_s: float = 0.0
    held: int = 0
    sought: int = 0
    fetching: int = 0
    num_asked: int = 0
    rest_until_s: float = 0.0
    vain_since_s: float | None = None
    is_slow: bool = False
    lags: bool = False
    passed_over: bool = False

    def told(self, held: int, sought: int, fetching: int, now_s: float) -> None:
        """What it has said last."""
        if held & ~self.held:
            self.grown_s, self.lags = now_s, False
        self.told_s = now_s
        self.held, self.sought, self.fetching = held, sought, fetching & sought

    @property
    def awaited(self) -> int:
        """Chunks that this node leaves to it."""
        if self.lags or self.passed_over:
            return 0
        return self.sought & self.goes_before | self.fetching

    def gave(self, size_bytes: int, took_s: float, config: PlanConfig) -> None:
        """It has sent a right chunk."""
        self.vain_since_s, self.rest_s = None, config.rest_s
        if size_bytes >= SLOW_COUNTS_BYTES:
            self.is_slow = size_bytes < config.slow_bytes_s * took_s

    def failed(self, now_s: float, config: PlanConfig) -> None:
        """It has not."""
        self.vain_since_s = now_s if self.vain_since_s is None else self.vain_since_s
        self.rest_until_s = now_s + self.rest_s
        self.rest_s = min(2 * self.rest_s, config.max_rest_s)


class PlanPeers:
    """All of them.

    Args:
        my_id: this node's.
        digests: of the chunks, in hex, in their order.
        blames: outlives the plan.
    """

    def __init__(self, config: PlanConfig, my_id: str, digests: Sequence[str], blames: Blames, random: Random) -> None:
        self._config = config
        self._my_id = my_id
        self._digests = digests
        self._mine: list[bytes] | None = None
        self._blames = blames
        self._random = random
        self._views: dict[str, PeerView] = {}
        self._unheard: dict[str, float] = {}
        self._levels: list[int] | None = None

    def __iter__(self) -> Iterator[PeerView]:
        return (view for view in self._views.values() if not self._blames.is_banned(view.peer))

    def get(self, peer: str) -> PeerView | None:
        """One of them; None where it is unknown or banned."""
        return None if self._blames.is_banned(peer) else self._views.get(peer)

    def told(self, peer: str, held: int, sought: int, fetching: int, now_s: float) -> None:
        """A peer says what it has and seeks."""
        self._unheard.pop(peer, None)
        if peer not in self._views:
            if self._mine is None:
                self._mine = weights_of(self._my_id, self._digests)
            goes_before = wins_over(weights_of(peer, self._digests), self._mine)
            self._views[peer] = PeerView(peer=peer, goes_before=goes_before, grown_s=now_s, rest_s=self._config.rest_s)
        self._views[peer].told(held, sought, fetching, now_s)
        self._levels = None

    def met(self, peer: str, until_s: float) -> None:
        """There is one that will say what it has, by a moment."""
        if len(self._unheard) < MAX_UNHEARD:
            self._unheard[peer] = until_s

    def are_unheard(self, now_s: float) -> bool:
        """Whether any is still to say what it has: for the first time, or anew."""
        self._unheard = {peer: until_s for peer, until_s in self._unheard.items() if now_s < until_s}
        stale_s = self._config.stale_s
        return bool(self._unheard) or any(
            view.sought and stale_s <= now_s - view.told_s < stale_s + self._config.hear_s for view in self
        )

    def slept(self, seconds: float) -> None:
        """This node heard nobody for so long."""
        for view in self._views.values():
            view.grown_s += seconds
        self._unheard = {peer: until_s + seconds for peer, until_s in self._unheard.items()}

    def forget(self, peer: str) -> None:
        """A peer is not there any more."""
        self._views.pop(peer, None)
        self._unheard.pop(peer, None)
        self._levels = None

    def failed(self, view: PeerView, chunk: int, fault: Fault, now_s: float) -> bool:
        """A request has failed; whether the peer is blamed for it."""
        view.failed(now_s, self._config)
        if fault is Fault.NOT_HELD:
            view.held &= ~(1 << chunk)
        self._levels = None
        return self._blames.blame(view.peer, fault)

    def available(self, now_s: float, *, also_slow: bool = False) -> int:
        """Chunks that come from peers sooner or later: of those that do not fail, and are not slow."""
        patience_s, available = self._config.patience_s, 0
        for view in self:
            in_vain = view.vain_since_s is not None and now_s - view.vain_since_s >= patience_s
            if not in_vain and (also_slow or not view.is_slow):
                available |= view.held
        return available

    def awaited(self) -> int:
        """Chunks that others fetch, from where this node would."""
        awaited = 0
        for view in self:
            awaited |= view.awaited
        return awaited

    def best_to_ask(self, missing: int, now_s: float) -> PeerView | None:
        """Who is to be asked next: of those that have something, the one with the least to do."""
        able = [
            view
            for view in self
            if view.num_asked < self._config.per_peer and now_s >= view.rest_until_s and view.held & missing
        ]
        return min(able, key=lambda view: (view.num_asked, self._random.random()), default=None)

    def rarest(self, chunks: int) -> int:
        """Of some chunks those that the fewest peers have."""
        if self._levels is None:
            self._levels = bits.at_least([view.held for view in self])
        levels = self._levels
        for level, next_level in zip(levels, [*levels[1:], 0], strict=True):
            if rare := chunks & level & ~next_level:
                return rare
        return chunks

    def look_for_lags(self, missing: int, now_s: float) -> None:
        """Wait no longer for those that are to fetch something and have got nothing for long.

        Who only waits for them itself is given as long again.
        """
        late = {
            view.peer for view in self if view.awaited & missing and now_s - view.grown_s >= self._config.patience_s
        }
        lagging = [view for view in self.in_charge(missing) if view.peer in late] if late else []
        for view in lagging:
            view.lags = True
        if lagging:
            for view in self:
                view.grown_s = view.grown_s if view.lags else now_s

    def in_charge(self, missing: int) -> list[PeerView]:
        """Those that are the first to fetch some of the missing chunks that others fetch."""
        first: dict[str, PeerView] = {}
        for count, chunk in enumerate(bits.members(missing & self.awaited())):
            if count == MAX_LOOKED_AT:
                break
            for view in self._in_charge_of(chunk):
                first[view.peer] = view
        return list(first.values())

    def _in_charge_of(self, chunk: int) -> Iterable[PeerView]:
        waited = [view for view in self if view.awaited >> chunk & 1]
        fetching = [view for view in waited if view.fetching >> chunk & 1]
        digest = [self._digests[chunk]]
        return fetching or [max(waited, key=lambda view: weights_of(view.peer, digest)[0])]
