"""A timer of an event loop, exact to some tens of microseconds: Linux's timerfd, which Python 3.11 does not have."""

import asyncio
import ctypes
import os
import time
from collections.abc import Callable

from osai.core.errors import SetupError

CLOCK_MONOTONIC = 1  # time.monotonic()'s
FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC have these values
SOON_NS = 1  # zero would disarm it
NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class FineTimer:
    """Calls back once each time it is set. Belongs to the loop that is running when it is made.

    Raises:
        SetupError: where the system has no such timers.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "timerfd_create"):
            raise SetupError("the delaying relay needs Linux's timerfd: run this bench on Linux")
        self._fd = int(self._libc.timerfd_create(CLOCK_MONOTONIC, FLAGS))
        if self._fd < 0:
            raise SetupError(f"the system gives no timer: {os.strerror(ctypes.get_errno())}")
        self._loop = asyncio.get_running_loop()
        self._callback: Callable[[], None] | None = None
        self._loop.add_reader(self._fd, self._fired)

    def set(self, due: float, callback: Callable[[], None]) -> None:
        """Call back at `due`, on the clock of time.monotonic(); what was set before is forgotten."""
        if self._fd < 0:
            return
        self._callback = callback
        wait_ns = max(SOON_NS, int((due - time.monotonic()) * NS))
        value = _Timespec(*divmod(wait_ns, NS))
        self._libc.timerfd_settime(self._fd, 0, ctypes.byref(_Itimerspec(_Timespec(0, 0), value)), None)

    def close(self) -> None:
        """Forget what was set; no more is taken."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set again in the meantime
            return
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()
