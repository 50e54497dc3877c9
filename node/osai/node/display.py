"""A node as its operator sees it: bars and one live line on a terminal, plain lines in the log elsewhere."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from osai.node.figures import Figures, Rates, line_of

log = logging.getLogger(__name__)

DRAW_S = 0.1  # between redraws: a chunk may take less
LOADING_LOG_S = 5.0  # often enough to see that it goes on
LINE_S = 1.0
LINE_LOG_S = 60.0


class NodeDisplay:
    """Call it with bytes done and bytes in all while weights are loaded; from any thread.

    Args:
        on_terminal: whether a person looks at standard error.
        clock: seconds of a steady clock.

    Attributes:
        num_blames: how often a node was blamed for what it gave, so far.
    """

    def __init__(self, *, on_terminal: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.num_blames: Callable[[], int] = lambda: 0
        self._on_terminal = sys.stderr.isatty() if on_terminal is None else on_terminal
        self._clock = clock
        self._logged_s = self._drawn_s = clock()
        self._lock = threading.Lock()  # loading threads and the loop
        self._rates = Rates()
        self._line = ""
        self._loading: Progress | None = None
        self._live: Live | None = None

    def found(self, lines: Sequence[str]) -> None:
        """Say what was found, before anything else."""
        for line in lines:
            if self._on_terminal:
                sys.stderr.write(f"{line}\n")
            else:
                log.info("%s", line)

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are read and verified."""
        if not self._on_terminal:
            self._log_loading(done, total)
            return
        with self._lock:
            if self._loading is None:
                self._loading = _bars()
                self._loading.add_task("loading", total=total)
            description = f"loading and verifying{self._blames()}"
            self._loading.update(self._loading.task_ids[0], completed=done, total=total, description=description)
            if done >= total or self._clock() - self._drawn_s >= DRAW_S:
                self._draw()
            if done >= total:
                self._loading = None
                self._draw()

    async def follow(self, read: Callable[[], Figures]) -> None:
        """Show the node's figures until cancelled."""
        interval_s = LINE_S if self._on_terminal else LINE_LOG_S
        last: Figures | None = None
        try:
            while True:
                figures = read()
                rate = self._rates.tokens_a_second(figures, self._clock())
                if self._on_terminal:
                    self._show(line_of(figures, rate))
                elif figures != last:  # a node that rests says so once
                    log.info("%s", line_of(figures, rate), extra=_fields(figures, rate))
                last = figures
                await asyncio.sleep(interval_s)
        finally:
            self.close()

    def close(self) -> None:
        """Leave the terminal as it is, with the cursor below."""
        with self._lock:
            self._loading, self._line = None, ""
            if self._live is not None:
                self._live.stop()
                self._live = None

    def _show(self, line: str) -> None:
        with self._lock:
            self._line = line
            self._draw()

    def _draw(self) -> None:
        self._drawn_s = self._clock()
        line = Text(self._line, no_wrap=True) if self._line else None
        parts = [part for part in (self._loading, line) if part is not None]
        if not parts:
            if self._live is not None:  # what is printed now stands below what was shown
                self._live.stop()
                self._live = None
            return
        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False, redirect_stdout=False)
            self._live.start()
        self._live.update(Group(*parts), refresh=True)

    def _log_loading(self, done: int, total: int) -> None:
        now_s = self._clock()
        if done >= total or now_s - self._logged_s >= LOADING_LOG_S:
            self._logged_s = now_s
            log.info("read and verified %.1f of %.1f MiB%s", done / 2**20, total / 2**20, self._blames(),
                     extra={"done_bytes": done, "total_bytes": total})  # fmt: skip

    def _blames(self) -> str:
        return f", nodes blamed {count} times" if (count := self.num_blames()) else ""


def _bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), auto_refresh=False)


def _fields(figures: Figures, tokens_a_second: float) -> dict[str, object]:
    return {
        "num_sessions": figures.num_sessions,
        "num_tokens": figures.num_tokens,
        "num_peers": figures.num_peers,
        "tokens_a_second": round(tokens_a_second, 1),
    }
