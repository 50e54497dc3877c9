"""How much one peer may be told by joining: each join is answered with whole manifests. Pure: it is told the time.

A peer is a member of a private swarm, or an address in a public one. B8 of docs/security.md.
"""

from dataclasses import dataclass

from osai.core.errors import ResourceExhaustedError
from osai.core.token_bucket import TokenBucket

MAX_REMEMBERED = 4096  # peers; one that has rested is as good as new


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinBudgetConfig:
    """What one peer is told at most.

    Attributes:
        bytes_a_second: of manifests, in the long run.
        burst_bytes: at once, after a rest: a hundred nodes at one address, with the largest manifests.
        join_bytes: that a join counts at least: it costs more than what is sent.
    """

    bytes_a_second: float = 16 * 2.0**20
    burst_bytes: float = 2.0**30
    join_bytes: int = 64 * 2**10


class JoinBudget:
    """The accounts of all peers."""

    def __init__(self, config: JoinBudgetConfig | None = None) -> None:
        self._config = config or JoinBudgetConfig()
        self._accounts: dict[str, TokenBucket] = {}

    def check(self, peer: str, now_s: float) -> None:
        """See whether a peer may join now.

        Raises:
            ResourceExhaustedError: if it was told more than its due; with when it may.
        """
        account = self._account(peer, now_s)
        if account.left <= 0:
            wait_s = account.wait_s(self._config.join_bytes)
            raise ResourceExhaustedError(
                f"{peer} has joined too often: try again in {wait_s:.0f} s", retry_after_s=wait_s
            )

    def told(self, peer: str, num_bytes: int, now_s: float) -> None:
        """A peer's join is answered with so much; it may be more than is left."""
        self._account(peer, now_s).take(max(num_bytes, self._config.join_bytes), now_s)

    def _account(self, peer: str, now_s: float) -> TokenBucket:
        account = self._accounts.get(peer)
        if account is None:
            if len(self._accounts) >= MAX_REMEMBERED:
                self._forget(now_s)
            config = self._config
            account = self._accounts[peer] = TokenBucket.full(config.bytes_a_second, config.burst_bytes, now_s)
        account.refill(now_s)
        return account

    def _forget(self, now_s: float) -> None:
        """Those who have rested; where none has, those who have most left: no more are remembered, whoever comes."""
        rested = [peer for peer, account in self._accounts.items() if account.is_full(now_s)]
        for peer in rested or [max(self._accounts, key=lambda peer: self._accounts[peer].left)]:
            del self._accounts[peer]
