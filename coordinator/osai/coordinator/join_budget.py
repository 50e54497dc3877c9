"""How much one peer may be told by joining: each join is answered with whole manifests. Pure: it is told the time.

A peer is a member of a private swarm, or an address in a public one. B8 of docs/security.md.
"""

from dataclasses import dataclass

from osai.core.errors import ResourceExhaustedError

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


@dataclass(slots=True)
class _Account:
    left: float
    at_s: float


class JoinBudget:
    """The accounts of all peers."""

    def __init__(self, config: JoinBudgetConfig | None = None) -> None:
        self._config = config or JoinBudgetConfig()
        self._accounts: dict[str, _Account] = {}

    def check(self, peer: str, now_s: float) -> None:
        """See whether a peer may join now.

        Raises:
            ResourceExhaustedError: if it was told more than its due; with when it may.
        """
        left = self._account(peer, now_s).left
        if left <= 0:
            wait_s = (self._config.join_bytes - left) / self._config.bytes_a_second
            raise ResourceExhaustedError(
                f"{peer} has joined too often: try again in {wait_s:.0f} s", retry_after_s=wait_s
            )

    def told(self, peer: str, num_bytes: int, now_s: float) -> None:
        """A peer's join is answered with so much; it may be more than is left."""
        self._account(peer, now_s).left -= max(num_bytes, self._config.join_bytes)

    def _account(self, peer: str, now_s: float) -> _Account:
        account = self._accounts.get(peer)
        if account is None:
            if len(self._accounts) >= MAX_REMEMBERED:
                self._forget(now_s)
            account = self._accounts[peer] = _Account(self._config.burst_bytes, now_s)
        self._refill(account, now_s)
        return account

    def _refill(self, account: _Account, now_s: float) -> None:
        more = self._config.bytes_a_second * max(now_s - account.at_s, 0.0)
        account.left, account.at_s = min(self._config.burst_bytes, account.left + more), max(now_s, account.at_s)

    def _forget(self, now_s: float) -> None:
        """Those who have rested; where none has, those who have most left: no more are remembered, whoever comes."""
        for account in self._accounts.values():
            self._refill(account, now_s)
        rested = [peer for peer, one in self._accounts.items() if one.left >= self._config.burst_bytes]
        for peer in rested or [max(self._accounts, key=lambda peer: self._accounts[peer].left)]:
            del self._accounts[peer]
