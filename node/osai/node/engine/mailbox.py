"""The one place where the event loop and the engine thread meet."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from osai.core.errors import OsaiError, UnavailableError
from osai.node.engine.api import Input
from osai.node.engine.hosted_span import HostedSpan
from osai.node.engine.scheduler import StepScheduler
from osai.node.engine.session import Session, StepPart

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Step:
    """What one step of a span runs.

    Attributes:
        span: the span's key.
        hosted: the span.
        parts: its rows, by session.
    """

    span: str
    hosted: HostedSpan
    parts: list[StepPart]


@dataclass(slots=True, eq=False)
class Call(Generic[T]):
    """A function that the engine thread is to run between steps."""

    function: Callable[[], T]
    future: "Future[T]" = field(default_factory=Future)

    def run(self) -> None:
        """Run it, unless nobody waits for it any more; whoever waits gets its error."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function())
        except Exception as e:  # noqa: BLE001  the caller gets it
            self.future.set_exception(e)

    def refuse(self, reason: OsaiError) -> None:
        """Fail it unrun."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(reason)


class Mailbox:
    """Waiting rows and calls, behind one lock. The thread takes them; the event loop does all the rest.

    Calls go before steps; spans that have waiting rows take turns.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: deque[Call[Any]] = deque()
        self._schedulers: dict[str, StepScheduler] = {}  # in the order of turns
        self._hosted: dict[str, HostedSpan] = {}
        self._sessions: dict[int, Session] = {}
        self._in_flight: list[Step] = []
        self._end: str | None = "the engine has not been started"  # why it is closed

    def begin(self) -> None:
        """Open: from now on there is a thread that takes."""
        with self._changed:
            self._end = None

    def take(self) -> Step | Call[Any] | None:
        """The thread's next work, waiting for it; None once the mailbox is closed."""
        with self._changed:
            while self._end is None:
                if self._calls:
                    return self._calls.popleft()
                for span, scheduler in self._schedulers.items():
                    if scheduler.num_waiting:
                        return self._take_step(span)
                self._changed.wait()
            return None

    def _take_step(self, span: str) -> Step:
        scheduler = self._schedulers.pop(span)
        self._schedulers[span] = scheduler  # to the end of the line
        chunks = scheduler.next_step()
        step = Step(span, self._hosted[span], [StepPart(self._sessions[chunk.rows.session], chunk) for chunk in chunks])
        self._in_flight.append(step)
        return step

    def host(self, span: str, hosted: HostedSpan, scheduler: StepScheduler) -> None:
        """Let a span take turns."""
        with self._changed:
            self._schedulers[span], self._hosted[span] = scheduler, hosted

    def unhost(self, span: str) -> None:
        """Take a span out of the line."""
        with self._changed:
            del self._schedulers[span], self._hosted[span]

    def open(self, session: Session) -> None:
        """Let rows of a session come."""
        with self._changed:
            self._sessions[session.spec.session] = session

    def add(self, session: Session, inp: Input) -> None:
        """Queue rows.

        Raises:
            ResourceExhaustedError: if too many wait already.
        """
        with self._changed:
            self._schedulers[session.spec.span].add(inp)
            self._changed.notify()

    def drop(self, session: Session, position: int) -> None:
        """Forget a session's rows at `position` and later, waiting or in flight."""
        with self._changed:
            self._schedulers[session.spec.span].drop(session.spec.session, position)
            for step in self._in_flight:
                for part in step.parts:
                    rows = part.chunk.rows
                    part.stale |= part.session is session and rows.position + rows.count > position

    def measure(self, span: str) -> "Future[float]":
        """Have the thread measure a span.

        Raises:
            UnavailableError: if the mailbox is closed.
        """
        return self.call(self._hosted[span].measure)

    def close_session(self, session: Session) -> None:
        """Forget a session and all of its rows."""
        self.drop(session, 0)
        with self._changed:
            self._sessions.pop(session.spec.session, None)

    def landed(self, step: Step) -> None:
        """A step's results have been delivered."""
        with self._changed:
            self._in_flight.remove(step)

    def num_waiting(self, span: str) -> int:
        """Rows of a span that wait."""
        with self._changed:
            return self._schedulers[span].num_waiting

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
