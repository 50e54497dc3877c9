"""Rows of the journal for a peer that lacks them, pushed while other sessions go on."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from osai.core.errors import InternalError
from osai.core.frames import ITEM_BYTES, MAX_FRAME_BYTES
from osai.core.link_pool import Lane
from osai.node.stages.journal import Journal
from osai.node.stages.pushing import Pushing
from osai.node.stages.stage import Action, Peer, Replay
from osai.node.stages.table import StageTable
from osai.node.wire import write_bytes

log = logging.getLogger(__name__)

MAX_REPLAYED_ROWS = 512  # in a frame: as many as a prefill step takes
MAX_QUEUED_REPLAYS = 8  # frames that wait at a link: what is replayed is in memory a second time while it does
QUEUE_CHECK_S = 0.002


class Replays:
    """Carries out replays.

    Args:
        table: knows which rows a peer lacks.
        journal: has them.
        pushing: sends them.
        perform: carries out what follows where that can't be done.
    """

    def __init__(
        self, table: StageTable, journal: Journal, pushing: Pushing, perform: Callable[[Sequence[Action]], None]
    ) -> None:
        self._table, self._journal, self._pushing, self._perform = table, journal, pushing, perform

    async def run(self, action: Replay) -> None:
        """Push rows of the journal until the peer has all that have landed."""
        try:
            if not await self._push(action):
                self._perform(self._table.cannot_replay(action))
        except Exception as e:
            log.exception("session %016x can't be replayed", action.session)
            error = InternalError(f"a replay failed here ({type(e).__name__}); the log says more")
            self._perform(self._table.fail(action.session, error))

    async def _push(self, action: Replay) -> bool:
        """False if rows are not there any more. Other sessions' rows go on between two frames."""
        while (found := self._table.next_replay(action, self._max_rows(action.session))) is not None:
            peer, rows = found
            shape = self._journal.shape(rows.session)
            data = self._journal.read(rows.session, rows.position, rows.position + rows.count)
            if data is None or shape is None or shape.hidden_size is None:
                return False
            message = write_bytes([rows], shape.dtype, (rows.count, shape.hidden_size), data)
            self._pushing.send(peer, message, Lane.PREFILL)
            await asyncio.sleep(0)
            while self._is_ahead(action, peer):  # noqa: ASYNC110 - links don't say when they have written
                await asyncio.sleep(QUEUE_CHECK_S)
        return True

    def _is_ahead(self, action: Replay, peer: Peer) -> bool:
        return self._table.is_replaying(action) and self._pushing.num_queued(peer) > MAX_QUEUED_REPLAYS

    def _max_rows(self, session: int) -> int:
        shape = self._journal.shape(session)
        if shape is None or shape.hidden_size is None:
            return MAX_REPLAYED_ROWS
        return min(MAX_REPLAYED_ROWS, MAX_FRAME_BYTES // (shape.hidden_size * ITEM_BYTES[shape.dtype]))
