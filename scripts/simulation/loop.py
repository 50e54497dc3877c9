"""An asyncio event loop whose time is simulated: it jumps from one event to the next, in one fixed order."""

import asyncio
import contextvars
import heapq
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")

EPOCH_S = 1_700_000_000.0  # what the wall clock shows when a simulation begins


class LoopError(Exception):
    """A simulated run can't go on: it waits for something that no event will bring."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in order of their times; those of one time in the order in which they were asked for.

    Attributes:
        now: simulated seconds since the beginning.
        num_events: callbacks run so far.
        errors: exceptions that nobody took.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self.errors: list[BaseException | str] = []
        self._numbers = count()
        self._ready: deque[asyncio.Handle] = deque()
        self._timed: list[tuple[float, int, asyncio.Handle]] = []
        self._stopping = False

    def time(self) -> float:
        """Simulated seconds."""
        return self.now

    def wall_time(self) -> float:
        """What wall clocks show."""
        return EPOCH_S + self.now

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whether callbacks run: asyncio asks."""
        return True

    def is_closed(self) -> bool:
        """It has nothing to close."""
        return False

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: object,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        """Run a callback at the present time, after those that are due already."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # there is one thread

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback after `delay` seconds."""
        return self.call_at(self.now + max(delay, 0.0), callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Run a callback at a time."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timed, (when, next(self._numbers), handle))
        return handle

    def after(self, delay: float, callback: Callable[..., object], *args: object) -> None:
        """As `call_later`, for callbacks that are never cancelled."""
        self.call_at(self.now + delay, callback, *args)

    def create_future(self) -> "asyncio.Future[Any]":
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Any,  # noqa: ANN401 - as the base class has it
        *,
        name: object = None,  # noqa: ARG002
        context: object = None,  # noqa: ARG002
    ) -> "asyncio.Task[Any]":
        """A task of this loop."""
        return asyncio.Task(coro, loop=self)

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: object) -> "asyncio.Future[T]":  # noqa: ARG002
        """Run a function at once: there are no threads."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as e:  # noqa: BLE001 - whoever awaits it gets it
            future.set_exception(e)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody took, so that the run fails."""
        error = context.get("exception")
        self.errors.append(error if error is not None else str(context.get("message")))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Asyncio says so of each; the heap finds out by itself."""

    def run_until(self, end_s: float) -> None:
        """Run all that is due until then; the time is `end_s` afterwards.

        Args:
            end_s: simulated seconds.
        """
        while self._ready or (self._timed and self._timed[0][0] <= end_s):
            self._step()
        self.now = max(self.now, end_s)

    def run_to_completion(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, and all that is due meanwhile.

        Raises:
            LoopError: if nothing is left to happen before it has ended.
        """
        task = self.create_task(coro)
        while not task.done():
            if not self._ready and not self._timed:
                raise LoopError("nothing is left to happen, and the coroutine still waits")
            self._step()
        result: T = task.result()
        return result

    def _step(self) -> None:
        if self._ready:
            handle = self._ready.popleft()
        else:
            when, _, handle = heapq.heappop(self._timed)
            if handle.cancelled():
                return
            self.now = max(self.now, when)
        if not handle.cancelled():
            self.num_events += 1
            handle._run()  # noqa: SLF001 - what every loop does


@contextmanager
def simulated_time(loop: VirtualLoop, dice: random.Random) -> Iterator[None]:
    """Inside, `loop` is the running loop, clocks show its time, and what is drawn at random is drawn from `dice`.

    Production's shells read the clock and draw numbers from the standard library; this is the one place that knows.
    """
    before = asyncio._get_running_loop()  # noqa: SLF001 - none, but in a test that runs in a loop itself
    asyncio._set_running_loop(loop)  # noqa: SLF001 - what every loop does
    try:
        with (
            mock.patch.object(time, "monotonic", loop.time),
            mock.patch.object(time, "time", loop.wall_time),
            mock.patch.object(secrets, "randbits", dice.getrandbits),
            mock.patch.object(random, "random", dice.random),
        ):
            yield
    finally:
        asyncio._set_running_loop(before)  # noqa: SLF001
