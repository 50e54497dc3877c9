"""One generation that a key has begun: its tokens are counted, and it ends at once when the key does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from osai.coordinator.keys.meter import Meter, Ticket
from osai.core.errors import OsaiError

T = TypeVar("T")


class Run:
    """A generation under way.

    Args:
        key_id: whose it is.
        meter: of that key.
        ticket: with which it was admitted.
        clock: the meter's.
    """

    def __init__(self, key_id: str, meter: Meter, ticket: Ticket, clock: Callable[[], float]) -> None:
        self.key_id = key_id
        self._meter = meter
        self._ticket = ticket
        self._clock = clock
        self._ended: OsaiError | None = None
        self._waiting: asyncio.Timeout | None = None

    def spend(self, num_tokens: int, *, keep: int | None = None) -> None:
        """It is about to get tokens; arguments and errors as of Meter.spend."""
        self._meter.spend(self._ticket, num_tokens, self._clock(), keep=keep)

    def settle(self) -> None:
        """It has ended."""
        self._meter.settle(self._ticket)

    def end(self, error: OsaiError) -> None:
        """It must end, and why. What it waits for is cancelled. The first reason stays."""
        if self._ended is not None:
            return
        self._ended = error
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def within(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, for as long as the generation may go on. One at a time.

        Raises:
            OsaiError: with which it was ended.
        """
        if self._ended is not None:
            raise self._ended
        try:
            async with asyncio.timeout(None) as self._waiting:
                return await work()
        except TimeoutError:
            if self._ended is None:  # the work's own
                raise
            raise self._ended from None
        finally:
            self._waiting = None
