"""How much one key has used, and whether it may have more. Pure."""

import math
from dataclasses import dataclass

from osai.coordinator.keys.api_key import Quota
from osai.coordinator.keys.window import DAY, MINUTE, Window
from osai.core.errors import InvalidRequestError, ResourceExhaustedError


class QuotaExceededError(ResourceExhaustedError):
    """The key's quota is used up for now; `retry_after_s` is when it is not."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A generation that was admitted. `reserved` are the tokens that it may still have without asking."""

    reserved: int


class Meter:
    """The use of one key (A5).

    A generation is admitted with as many tokens as it is thought to need: they are set aside for it. Those that it has
    had are counted as they come, and what is left is given back when it is settled. So neither what runs nor what has
    ended can exceed a quota, wherever a window begins.

    Args:
        key_id: for messages.
        quota: may be set to another one at any time.
    """

    def __init__(self, key_id: str, quota: Quota) -> None:
        self.quota = quota
        self._key_id = key_id
        self._requests = Window(MINUTE)
        self._minute = Window(MINUTE)
        self._day = Window(DAY)
        self._tickets: set[Ticket] = set()

    @property
    def num_running(self) -> int:
        """Generations that were admitted and are not settled."""
        return len(self._tickets)

    def admit(self, num_tokens: int, now_s: float) -> Ticket:
        """Begin a generation that needs so many tokens, prompt and generated.

        Raises:
            QuotaExceededError: if it has to wait.
            InvalidRequestError: if it needs more than the key ever gets.
        """
        self._check_size(num_tokens)
        if 0 < self.quota.max_concurrent <= len(self._tickets):
            raise self._exceeded(f"run {self.quota.max_concurrent} generations at once", 0.0)
        limit = self.quota.requests_per_minute
        if limit and (wait_s := self._requests.wait_s(1, limit, now_s)):
            raise self._exceeded(f"make {limit} requests a minute", self._longest(num_tokens, now_s, wait_s))
        self._check_tokens(num_tokens, now_s)
        self._requests.add(1, now_s)
        ticket = Ticket(num_tokens)
        self._tickets.add(ticket)
        return ticket

    def spend(self, ticket: Ticket, num_tokens: int, now_s: float, *, keep: int | None = None) -> None:
        """A generation is about to get tokens: of those set aside for it, then of what is free.

        Args:
            ticket: with which it was admitted.
            num_tokens: that it gets now.
            now_s: the time.
            keep: tokens to have set aside for it from now on, where that has become known; else what is left.

        Raises:
            QuotaExceededError: if there are not enough. None of these is counted: it must not get them.
            InvalidRequestError: if it needs more than the key ever gets.
        """
        if keep is None:
            keep = max(0, ticket.reserved - num_tokens)
        else:
            self._check_size(num_tokens + keep)
        if (beyond := num_tokens + keep - ticket.reserved) > 0:
            self._check_tokens(beyond, now_s)
        ticket.reserved = keep
        self._minute.add(num_tokens, now_s)
        self._day.add(num_tokens, now_s)

    def settle(self, ticket: Ticket) -> None:
        """The generation has ended: what it has not had is free again. Settling twice does nothing."""
        self._tickets.discard(ticket)

    def _check_size(self, num_tokens: int) -> None:
        for limit, span in ((self.quota.tokens_per_minute, "minute"), (self.quota.tokens_per_day, "day")):
            if 0 < limit < num_tokens:
                raise InvalidRequestError(
                    f"API key {self._key_id} may use {limit} tokens a {span}; this request is for about "
                    f"{num_tokens}, prompt and max_tokens: ask for fewer",
                    subject=self._key_id,
                )

    def _check_tokens(self, num_tokens: int, now_s: float) -> None:
        waits = self._token_waits(num_tokens, now_s)
        if not waits:
            return
        words, wait_s = max(waits, key=lambda wait: wait[1])
        raise self._exceeded(words, wait_s)

    def _token_waits(self, num_tokens: int, now_s: float) -> list[tuple[str, float]]:
        """What the tokens have to wait for: words and seconds; 0 where they wait for running generations to end."""
        wanted = num_tokens + sum(ticket.reserved for ticket in self._tickets)
        found = []
        for window, limit, span in (
            (self._minute, self.quota.tokens_per_minute, "minute"),
            (self._day, self.quota.tokens_per_day, "day"),
        ):
            if limit and (wait_s := window.wait_s(wanted, limit, now_s)) != 0.0:
                found.append((f"use {limit} tokens a {span}", wait_s or 0.0))
        return found

    def _longest(self, num_tokens: int, now_s: float, wait_s: float) -> float:
        return max([wait_s, *(other_s for _, other_s in self._token_waits(num_tokens, now_s))])

    def _exceeded(self, words: str, wait_s: float) -> QuotaExceededError:
        when = f"in {math.ceil(wait_s)} s" if wait_s else "when another request has ended"
        return QuotaExceededError(
            f"API key {self._key_id} may {words}: try again {when}", subject=self._key_id, retry_after_s=wait_s
        )
