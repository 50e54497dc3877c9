"""The phases of a request before its first token, told by the code that goes through them to whoever measures.

Who measures is kept in the context of the request's task, and only while the generation runs a step of its own: the
code in between need not hand it on, and other requests of the same task are not mixed up with it.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


class Phase(Enum):
    """What a request is at."""

    PLANNING = "planning"  # it is tokenised, and checked against the model
    QUEUEING = "queueing"  # for its turn to ask for KV
    ROUTING = "routing"
    OPENING = "opening"  # the session, on every stage
    PREFILL = "prefill"
    DECODE = "decode"
    RECOVERY = "recovery"


Observer = Callable[[Phase], None]

_OBSERVERS: ContextVar[tuple[Observer, ...]] = ContextVar("osai_phase_observers", default=())


def enter(phase: Phase) -> None:
    """The request that this task runs enters a phase, and leaves the one before."""
    for observer in _OBSERVERS.get():
        observer(phase)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Tell `observer` of the phases that this task goes through inside the context."""
    token = _OBSERVERS.set((*_OBSERVERS.get(), observer))
    try:
        yield
    finally:
        _OBSERVERS.reset(token)


async def observed(events: AsyncGenerator[T, None], observer: Observer) -> AsyncGenerator[T, None]:
    """The events of a generation, whose phases `observer` is told; closing it closes them."""
    async with aclosing(events):
        while True:
            with observing(observer):  # left before the reader gets the event: it may be another task's
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            yield event
