"""The keys as both front doors use them: who calls, what he has used, and what of his is running."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from osai.coordinator.keys.api_key import ApiKey
from osai.coordinator.keys.book import KeyBook
from osai.coordinator.keys.key_text import KeyText
from osai.coordinator.keys.meter import Meter
from osai.coordinator.keys.run import Run
from osai.core.errors import UnauthenticatedError


class Keyring:
    """A coordinator's keys. All of it runs on the loop.

    Args:
        book: as the keys file has it now.
        wall_clock: seconds since 1970, for keys that expire.
        clock: monotonic seconds, for quotas.
    """

    def __init__(
        self,
        book: KeyBook,
        *,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._wall_clock = wall_clock
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._runs: set[Run] = set()

    def key_of(self, authorization: str | None) -> ApiKey:
        """The key in an `Authorization` header.

        Raises:
            UnauthenticatedError: if there is none that is good.
        """
        return self._book.authenticate(KeyText.of_header(authorization), self._wall_clock())

    def replace(self, book: KeyBook) -> None:
        """The keys file has changed: quotas are the new ones from now on, and what revoked keys run ends (A6)."""
        self._book = book
        self.look()
        for key_id, meter in tuple(self._meters.items()):
            if (key := book.find(key_id)) is not None:
                meter.quota = key.quota
            elif not meter.num_running:
                del self._meters[key_id]

    def look(self) -> None:
        """End what keys run that are good no longer (A6)."""
        now_s = self._wall_clock()
        for run in tuple(self._runs):
            try:
                self._check(run.key_id, now_s)
            except UnauthenticatedError as e:
                run.end(e)

    @contextmanager
    def running(self, key: ApiKey, num_tokens: int) -> Iterator[Run]:
        """Admit a generation of that many tokens, and watch over it for as long as the block runs.

        Raises:
            QuotaExceededError: if the key has to wait.
            InvalidRequestError: if it wants more than it ever gets.
            UnauthenticatedError: if it has ended meanwhile.
        """
        self._check(key.key_id, self._wall_clock())
        meter = self._meters.setdefault(key.key_id, Meter(key.key_id, key.quota))
        run = Run(key.key_id, meter, meter.admit(num_tokens, self._clock()), self._clock)
        self._runs.add(run)
        try:
            yield run
        finally:
            self._runs.discard(run)
            run.settle()

    def _check(self, key_id: str, now_s: float) -> None:
        key = self._book.find(key_id)
        if key is None:
            raise UnauthenticatedError(f"API key {key_id} was deleted: ask the coordinator's operator for a new one")
        key.check_good(now_s)
