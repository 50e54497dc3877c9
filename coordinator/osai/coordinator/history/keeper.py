"""Keeps the history: samples the swarm, and writes a minute at a time in a thread of its own."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from osai.coordinator.api import SwarmView
from osai.coordinator.history.minute import Minute
from osai.coordinator.history.past import Past
from osai.coordinator.history.recorder import MINUTE_S, Recorder
from osai.coordinator.history.store import MAX_BYTES, HistoryStore
from osai.core.errors import SetupError

log = logging.getLogger(__name__)

HISTORY_FILE = "history.sqlite3"
SAMPLE_S = 10.0  # between two looks at the swarm
NOT_READ_YET = "it is being read"
IN_MEMORY = "it is kept in memory alone"


class History:
    """The past of a swarm, for the page; alive inside `run`.

    Where the file can't be used, all goes on in memory, and `past.trouble` says why: the page lives without it.

    Args:
        recorder: what front doors tell of.
        swarm: gives the swarm as it is now.
        path: the file; None: memory alone.
        wall_clock: seconds since 1970.
        max_bytes: that the file may have.
    """

    def __init__(
        self,
        recorder: Recorder,
        swarm: Callable[[], SwarmView],
        path: Path | None,
        wall_clock: Callable[[], float],
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._recorder = recorder
        self._swarm = swarm
        self._path = path
        self._wall_clock = wall_clock
        self._max_bytes = max_bytes
        self._store: HistoryStore | None = None
        self._stored = Past(trouble=NOT_READ_YET)
        self._unwritten: Minute | None = None
        self._minute = self._now()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="history")

    def past(self) -> Past:
        """All that is known, the open minute included."""
        open_minute = self._recorder.open_minute(self._now())
        return self._stored.with_minutes(*([self._unwritten] if self._unwritten else []), open_minute)

    @property
    def recorder(self) -> Recorder:
        """What it keeps the minutes of."""
        return self._recorder

    async def run(self) -> None:
        """Sample and write until cancelled; what there is of the last minute is written too."""
        try:
            await self._in_thread(lambda: self._open(self._now()))
            while True:
                try:
                    await self.sample()
                except Exception:  # the edge of a task: nothing of the history may end the coordinator
                    log.exception("a minute of the history is lost")
                    self._unwritten = None
                await asyncio.sleep(SAMPLE_S)
        finally:
            last = self._recorder.close_minute(self._minute)
            self._thread.submit(self._close, self._unwritten, last)
            self._thread.shutdown(wait=True)

    async def sample(self) -> None:
        """Look at the swarm, and write a minute that is over."""
        now = self._now()
        if now != self._minute:
            self._unwritten = self._recorder.close_minute(self._minute)
            self._minute = now
        self._recorder.see(self._swarm())
        if self._unwritten is not None:
            minute = self._unwritten
            await self._in_thread(lambda: self._write(minute, now))
            self._unwritten = None

    async def _in_thread(self, work: Callable[[], Past]) -> None:
        self._stored = await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _now(self) -> int:
        return int(self._wall_clock() // MINUTE_S)

    # What follows runs in the thread.

    def _open(self, now: int) -> Past:
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            self._store = HistoryStore(self._path, max_bytes=self._max_bytes)
            return replace(self._store.past(now), trouble="" if self._path else IN_MEMORY)
        except (sqlite3.Error, SetupError, OSError) as e:
            return self._begin_anew(e, now)

    def _write(self, minute: Minute, now: int) -> Past:
        if self._store is None:
            return self._stored
        try:
            self._store.add(minute)
            return replace(self._store.past(now), trouble=self._stored.trouble)
        except sqlite3.Error as e:
            if getattr(e, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY:
                log.warning("a minute of the history in %s is lost: another program holds the file", self._path)
                return self._stored
            return self._begin_anew(e, now)

    def _begin_anew(self, error: sqlite3.Error | SetupError | OSError, now: int) -> Past:
        """Without the file: a coordinator serves on when its disk is full."""
        reason = error.strerror or "unusable" if isinstance(error, OSError) else str(error)
        log.error(
            "the history in %s can't be kept: %s. Figures of the health page begin anew, in memory alone; make room, "
            "or move the file away, and start the coordinator again", self._path, reason,
        )  # fmt: skip
        if self._store is not None:
            self._store.close()
        self._store = HistoryStore(None, max_bytes=self._max_bytes)
        return replace(self._store.past(now), trouble=reason)

    def _close(self, *minutes: Minute | None) -> None:
        if self._store is None:
            return
        try:
            for minute in minutes:
                if minute is not None:
                    self._store.add(minute)
        except sqlite3.Error as e:
            log.error("the last minute of the history in %s is lost: %s", self._path, e)  # noqa: TRY400 - its words say it
        finally:
            self._store.close()
