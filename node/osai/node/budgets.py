"""What one peer may take of this node, whatever it sends: rows, bytes, KV, links. Pure: it is told the time.

A peer is a member of a private swarm, or an address in a public one. The defaults are far above what honest peers
need, all of a swarm's members on one machine included: they bound harm, and share out nothing. B5 of docs/security.md.
"""

from dataclasses import dataclass, field

from osai.core.errors import ResourceExhaustedError
from osai.core.token_bucket import TokenBucket

MAX_REMEMBERED = 4096  # peers without links whose use is remembered; one that has rested is as good as new


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetConfig:
    """What one peer may take.

    Attributes:
        tokens_a_second: rows of frames, in the long run; the fastest GPUs run a tenth of it.
        bytes_a_second: of frames, in the long run; 64 Gbit/s.
        burst_s: so many seconds' worth may come at once, after a rest.
        kv_tokens: of all sessions that are open here for it.
        num_links: that it holds at once; a member needs two for each peer that it pushes to.
    """

    tokens_a_second: float = 1_000_000.0
    bytes_a_second: float = 8.0 * 2**30
    burst_s: float = 2.0
    kv_tokens: int = 2**26
    num_links: int = 1024


@dataclass(slots=True)
class _Account:
    """One peer's."""

    tokens: TokenBucket
    num_bytes: TokenBucket
    links: set[int] = field(default_factory=set)
    kv_tokens: int = 0

    def is_rested(self, now_s: float) -> bool:
        """Whether nothing need be remembered of it."""
        full = self.tokens.is_full(now_s) and self.num_bytes.is_full(now_s)
        return full and not self.links and not self.kv_tokens


class Budgets:
    """The accounts of all peers. What is refused is taken from nobody."""

    def __init__(self, config: BudgetConfig | None = None) -> None:
        self._config = config or BudgetConfig()
        self._accounts: dict[str, _Account] = {}
        self._peers: dict[int, str] = {}  # by link
        self._sessions: dict[int, tuple[str, int]] = {}  # whose, and how much KV

    def attach(self, link: int, peer: str, now_s: float) -> None:
        """A peer has dialled in, by the link of that number.

        Raises:
            ResourceExhaustedError: if it holds too many already.
        """
        account = self._account(peer, now_s)
        if len(account.links) >= self._config.num_links:
            raise ResourceExhaustedError(f"{peer} holds {self._config.num_links} links to this node: end some first")
        account.links.add(link)
        self._peers[link] = peer

    def detach(self, link: int) -> None:
        """A link has ended; an unknown one is no error."""
        account = self._accounts.get(self._peers.pop(link, ""))
        if account is not None:
            account.links.discard(link)

    def take(self, link: int, num_tokens: int, num_bytes: int, now_s: float) -> None:
        """Rows have come by a link; one that is not known takes nothing.

        Raises:
            ResourceExhaustedError: if they are too many, or too large; with when there is room again.
        """
        peer = self._peers.get(link)
        if peer is None:
            return
        account = self._accounts[peer]
        waits = []
        for bucket, amount in ((account.tokens, num_tokens), (account.num_bytes, num_bytes)):
            bucket.refill(now_s)
            waits.append(bucket.wait_s(amount))
        if max(waits) > 0:
            what = "rows" if waits[0] > 0 else "bytes"
            raise ResourceExhaustedError(
                f"{peer} sends more {what} a second than this node takes from one peer: send fewer",
                retry_after_s=max(waits),
            )
        account.tokens.left -= num_tokens
        account.num_bytes.left -= num_bytes

    def check_open(self, link: int, session: int, num_tokens: int) -> None:
        """See whether a link's peer may have a session with so much KV opened, or go on with it.

        Raises:
            ResourceExhaustedError: if it would hold too much.
        """
        peer = self._peers.get(link)
        if peer is None:
            return
        owner, held = self._sessions.get(session, ("", 0))
        kv_tokens = self._accounts[peer].kv_tokens - (held if owner == peer else 0) + num_tokens
        if kv_tokens > self._config.kv_tokens:
            raise ResourceExhaustedError(
                f"{peer} would hold the KV of {kv_tokens} tokens here, and may hold {self._config.kv_tokens}: close "
                "sessions first"
            )

    def opened(self, link: int, session: int, num_tokens: int) -> None:
        """A session is open: its KV is the link's peer's from now on, whoever's it was before."""
        peer = self._peers.get(link)
        self.released(session)
        if peer is not None:
            self._sessions[session] = peer, num_tokens
            self._accounts[peer].kv_tokens += num_tokens

    def released(self, session: int) -> None:
        """A session's KV is free; an unknown one is no error."""
        owner, held = self._sessions.pop(session, ("", 0))
        if (account := self._accounts.get(owner)) is not None:
            account.kv_tokens -= held

    def _account(self, peer: str, now_s: float) -> _Account:
        account = self._accounts.get(peer)
        if account is None:
            if len(self._accounts) >= MAX_REMEMBERED:
                self._forget(now_s)
            account = self._accounts[peer] = _Account(
                self._bucket(self._config.tokens_a_second, now_s), self._bucket(self._config.bytes_a_second, now_s)
            )
        return account

    def _forget(self, now_s: float) -> None:
        """Forget those who have rested: within a burst's seconds, everybody who has gone."""
        for peer in [peer for peer, account in self._accounts.items() if account.is_rested(now_s)]:
            del self._accounts[peer]

    def _bucket(self, rate: float, now_s: float) -> TokenBucket:
        return TokenBucket.full(rate, rate * self._config.burst_s, now_s)
