"""The one place where the event loop and the engine thread meet."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from osai.core.errors import UnavailableError
from osai.node.engine.api import Input
from osai.node.engine.hosted_span import HostedSpan
from osai.node.engine.scheduler import StepScheduler
from osai.node.engine.session import Session, StepPart
from osai.node.engine.step_load import StepLoad
from osai.node.engine.work import Call, Step

T = TypeVar("T")


class Mailbox:
    """Waiting rows and calls, behind one lock. The thread takes them; the event loop does all the rest.

    Calls go before steps; spans that have waiting rows take turns. Rows that the loop adds in one go are seen together:
    else the thread, if it is idle, would make a step of the first of a batch alone.

    A Condition hands over in 35 us, there and back; queue.SimpleQueue and a bare lock save 4 of these.

    Args:
        clock: seconds, never falling.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._calls: deque[Call[Any]] = deque()
        self._schedulers: dict[str, StepScheduler] = {}  # in the order of turns
        self._hosted: dict[str, HostedSpan] = {}
        self._sessions: dict[int, Session] = {}
        self._in_flight: list[Step] = []
        self._running: StepScheduler | None = None  # whose step the thread runs
        self._added: list[tuple[StepScheduler, Input]] = []  # not seen by the thread yet; the event loop's
        self._end: str | None = "the engine has not been started"  # why it is closed

    def begin(self) -> None:
        """Open: from now on there is a thread that takes."""
        with self._changed:
            self._end = None

    def take(self) -> Step | Call[Any] | None:
        """The thread's next work, waiting for it; None once the mailbox is closed. What it took last has ended."""
        with self._changed:
            now_s = self._clock()
            if self._running is not None:
                self._running.step_ended(now_s)
                self._running = None
            while self._end is None:
                if self._calls:
                    return self._calls.popleft()
                if (step := self._next_step(now_s)) is not None:
                    return step
                held = [until_s for s in self._schedulers.values() if (until_s := s.held_until_s) is not None]
                self._changed.wait(max(min(held) - now_s, 0.0) if held else None)
                now_s = self._clock()
            return None

    def _next_step(self, now_s: float) -> Step | None:
        """The next step of the first span in line that has one."""
        for span, scheduler in self._schedulers.items():
            if not scheduler.num_waiting or not (chunks := scheduler.next_step(now_s)):
                continue
            self._schedulers[span] = self._schedulers.pop(span)  # to the end of the line
            parts = [StepPart(self._sessions[chunk.rows.session], chunk) for chunk in chunks]
            step = Step(span, self._hosted[span], parts)
            self._in_flight.append(step)
            self._running = scheduler
            return step
        return None

    def host(self, span: str, hosted: HostedSpan, scheduler: StepScheduler) -> None:
        """Let a span take turns."""
        with self._changed:
            self._schedulers[span], self._hosted[span] = scheduler, hosted

    def unhost(self, span: str) -> None:
        """Take a span out of the line; its sessions must be closed."""
        with self._changed:
            del self._schedulers[span], self._hosted[span]

    def open(self, session: Session) -> None:
        """Let rows of a session come."""
        with self._changed:
            self._sessions[session.spec.session] = session
            self._schedulers[session.spec.span].open(session.spec)

    def resume(self, session: Session) -> None:
        """A session goes on under another spec; what was known of the times of its rows no longer holds."""
        with self._changed:
            self._schedulers[session.spec.span].open(session.spec)

    def add(self, session: Session, inp: Input) -> bool:
        """Queue rows, for the thread to see at the next `flush`; whether they are the first since the last one.

        Raises:
            InvalidRequestError: if more come at once than may ever wait.
            ResourceExhaustedError: if too many wait already.
        """
        scheduler = self._schedulers[session.spec.span]
        num_added = sum(added.rows.count for other, added in self._added if other is scheduler)
        scheduler.check_room(inp.rows.count, num_added)
        self._added.append((scheduler, inp))
        return len(self._added) == 1

    def flush(self) -> None:
        """Let the thread see the rows that were added."""
        if not self._added:
            return
        with self._changed:
            now_s = self._clock()
            for scheduler, inp in self._added:
                scheduler.add(inp, now_s)
            self._added.clear()
            self._changed.notify()

    def drop(self, session: Session, position: int) -> None:
        """Forget a session's rows at `position` and later, waiting or in flight."""
        self.flush()
        with self._changed:
            self._schedulers[session.spec.span].drop(session.spec.session, position)
            for step in self._in_flight:
                for part in step.parts:
                    if part.session is session:
                        part.cut(position)

    def close_session(self, session: Session) -> None:
        """Forget a session and all of its rows."""
        self.drop(session, 0)
        with self._changed:
            self._schedulers[session.spec.span].close(session.spec.session)
            self._sessions.pop(session.spec.session, None)

    def measure(self, span: str) -> "Future[float]":
        """Have the thread measure a span.

        Raises:
            UnavailableError: if the mailbox is closed.
        """
        return self.call(self._hosted[span].measure)

    def measured(self, span: str, seconds: float) -> None:
        """A step of one row of a span, which no session had asked for, took so long."""
        with self._changed:
            self._schedulers[span].cost.observe(1, seconds)

    def landed(self, step: Step) -> None:
        """A step's results have been delivered."""
        with self._changed:
            self._in_flight.remove(step)

    def num_waiting(self, span: str) -> int:
        """Rows of a span that wait."""
        self.flush()
        with self._changed:
            return self._schedulers[span].num_waiting

    def load(self, span: str) -> StepLoad:
        """How busy a span is, and how fast of late."""
        self.flush()
        with self._changed:
            return self._schedulers[span].load(self._clock())

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Have the thread run a function between steps.

        Raises:
            UnavailableError: if the mailbox is closed.
        """
        with self._changed:
            self.check_open()
            call = Call(function)
            self._calls.append(call)
            self._changed.notify()
            return call.future

    def check_open(self) -> None:
        """Raises UnavailableError if the mailbox is closed."""
        if self._end is not None:
            raise UnavailableError(self._end)

    def close(self, reason: str) -> None:
        """Let the thread go; calls that wait fail, and so does all that comes later. The first reason stays."""
        with self._changed:
            self._end = self._end or reason
            while self._calls:
                self._calls.popleft().refuse(UnavailableError(self._end))
            self._changed.notify()
