"""The shell around one model's AdmissionQueue: requests wait here for their turn."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite

from osai.coordinator.admission import Action, AdmissionQueue, QueueConfig, Refuse, Try
from osai.core.errors import ResourceExhaustedError


class WaitingRoom:
    """Requests for one model. All of it runs on the loop."""

    def __init__(self, model_id: str, config: QueueConfig) -> None:
        self._queue = AdmissionQueue(model_id, config, random.random)
        self._numbers = itertools.count()
        self._turns: dict[int, asyncio.Future[ResourceExhaustedError | None]] = {}  # a turn, or why there will be none
        self._timer: asyncio.TimerHandle | None = None

    @property
    def num_queued(self) -> int:
        """Requests that wait."""
        return self._queue.num_queued

    @contextmanager
    def place(self) -> Iterator["Place"]:
        """A request's place, from its arrival to the end of its session."""
        place = Place(self, next(self._numbers))
        self._expect(place.ticket)
        self._perform(self._queue.arrive(place.ticket, time.monotonic()))
        try:
            yield place
        finally:
            self._turns.pop(place.ticket, None)
            self._perform(self._queue.left(place.ticket))

    async def turn(self, ticket: int) -> None:
        """See `Place.turn`."""
        if (error := await self._turns[ticket]) is not None:
            raise error

    def admitted(self, ticket: int) -> None:
        """Its session is open."""
        self._perform(self._queue.admitted(ticket))

    def refused(self, ticket: int, error: ResourceExhaustedError) -> None:
        """It found no room."""
        self._expect(ticket)
        self._perform(self._queue.refused(ticket, error.message, time.monotonic()))

    def _expect(self, ticket: int) -> None:
        self._turns[ticket] = asyncio.get_running_loop().create_future()

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            turn = self._turns.get(action.ticket)
            if turn is None or turn.done():  # its request is on its way out, and will say so
                continue
            match action:
                case Try():
                    turn.set_result(None)
                case Refuse():
                    turn.set_result(action.error)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wake_s = self._queue.wake_s
        delay_s = max(0.0, wake_s - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick) if isfinite(wake_s) else None

    def _tick(self) -> None:
        self._perform(self._queue.tick(time.monotonic()))


class Place:
    """One request's place in the room."""

    def __init__(self, room: WaitingRoom, ticket: int) -> None:
        self._room = room
        self.ticket = ticket
        self.is_admitted = False

    async def turn(self) -> None:
        """Wait until the request may try to open its session.

        Raises:
            ResourceExhaustedError: if too many wait already, or it has waited for too long.
        """
        await self._room.turn(self.ticket)

    def admitted(self) -> None:
        """The session is open; said as often as one likes."""
        if not self.is_admitted:
            self.is_admitted = True
            self._room.admitted(self.ticket)

    def refused(self, error: ResourceExhaustedError) -> None:
        """No pipeline had room; wait for the next turn."""
        self._room.refused(self.ticket, error)
