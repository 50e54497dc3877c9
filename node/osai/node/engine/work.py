"""What the engine thread is given to do."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from osai.core.errors import OsaiError
from osai.node.engine.hosted_span import HostedSpan
from osai.node.engine.session import StepPart

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
