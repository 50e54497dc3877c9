"""SIGINT, SIGTERM and SIGHUP as events: the first asks to stop, the second to stop at once."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

R = TypeVar("R")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """What the user asked for.

    Attributes:
        stop: set by the first signal.
        hurry: set by the second.
        exit_status: what a program ended by the first signal should give.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.exit_status = 0

    def on_signal(self, number: signal.Signals) -> None:
        """Take a signal."""
        if self.stop.is_set():
            self.hurry.set()
        else:
            self.exit_status = 128 + number
            self.stop.set()

    async def unless_stopped(self, work: Coroutine[Any, Any, R]) -> R | None:
        """Do `work`, but cancel it and give None if the user asks to stop."""
        doing, stopping = asyncio.create_task(work), asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            for task in (doing, stopping):
                task.cancel()
            await asyncio.gather(doing, stopping, return_exceptions=True)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Listen to the signals while the block runs, on the running loop."""
    loop, found = asyncio.get_running_loop(), Interrupts()
    for number in _SIGNALS:
        loop.add_signal_handler(number, found.on_signal, number)
    try:
        yield found
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
