"""Work of a command that SIGTERM ends as Ctrl-C does, so that what it has started is stopped."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from osai.core.errors import CancelledError

T = TypeVar("T")


async def until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """What the work comes to.

    Raises:
        CancelledError: if a signal came first; everything is cleaned up by then.
    """
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _cancel_once, task)
    try:
        return await task
    except asyncio.CancelledError as e:
        raise CancelledError("stopped by a signal before it was through") from e


def _cancel_once(task: asyncio.Task[Any]) -> None:
    """`timeout` sends its signal to the process and to its group: a second one would end the cleaning up."""
    if not task.cancelling():
        task.cancel()
