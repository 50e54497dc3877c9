"""How far loading is: a bar in a terminal, else a line in the log now and then."""

import logging
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

log = logging.getLogger(__name__)

LOG_INTERVAL_S = 5.0  # often enough to see that it goes on


class LoadingProgress:
    """Call it with bytes done and bytes in all; from any thread.

    Attributes:
        num_blames: how often a node was blamed for what it gave, so far.
    """

    def __init__(self) -> None:
        self.num_blames: Callable[[], int] = lambda: 0
        self._bar: Progress | None = None
        self._logged_s = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are read and verified."""
        if not self._terminal:
            self._log(done, total)
            return
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task("loading", total=total)
            self._bar.start()
        description = f"loading and verifying{self._blames()}"
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, description=description)
        if done >= total:
            self._bar.stop()
            self._bar = None

    def _log(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done >= total or now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            log.info("read and verified %.1f of %.1f MiB%s", done / 2**20, total / 2**20, self._blames())

    def _blames(self) -> str:
        return f", nodes blamed {count} times" if (count := self.num_blames()) else ""
