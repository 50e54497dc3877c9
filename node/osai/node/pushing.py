"""What leaves a stage for its neighbours: rows as they land, rows of the journal, drawn tokens."""

import asyncio
import logging
from collections.abc import Callable

import torch

from osai.core.errors import OsaiError
from osai.core.frames import ITEM_BYTES, MAX_FRAME_BYTES, FrameShape
from osai.core.link_pool import Lane, LinkPool
from osai.node.engine.api import Rows
from osai.node.journal import Journal
from osai.node.stage import Forward, Keep, Peer, Replay
from osai.node.stage_table import StageTable
from osai.node.wire import WIRE_DTYPES, write_batch, write_bytes
from osai.proto import edge_pb2

log = logging.getLogger(__name__)

MAX_REPLAYED_ROWS = 512  # in a frame: as many as a prefill step takes
MAX_QUEUED_REPLAYS = 8  # frames that wait at a link: what is replayed is in memory a second time while it does
QUEUE_CHECK_S = 0.002


class Pushing:
    """Sends rows on, and keeps them.

    Args:
        table: knows which rows of the journal a peer lacks.
        pool: the links.
        journal: what is kept.
        on_unreachable: called with the id of a peer that can't be pushed to.
    """

    def __init__(
        self, table: StageTable, pool: LinkPool, journal: Journal, on_unreachable: Callable[[str], None]
    ) -> None:
        self._table, self._pool, self._journal = table, pool, journal
        self._on_unreachable = on_unreachable
        self._shapes: dict[tuple[torch.dtype, int], FrameShape] = {}

    def forward(self, action: Forward, hidden: torch.Tensor) -> None:
        """Push rows of a step's hidden states, [num_tokens, hidden_size]."""
        lane = Lane.PREFILL if action.prefill else Lane.DECODE
        self.send(action.peer, write_batch(action.rows, _cut(hidden, action.slices)), lane)

    def keep(self, action: Keep, hidden: torch.Tensor) -> None:
        """Copy rows of a step's hidden states, [num_tokens, hidden_size], into the journal."""
        key = (hidden.dtype, hidden.shape[1])
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = FrameShape(dtype=WIRE_DTYPES[hidden.dtype], hidden_size=hidden.shape[1])
        row_bytes = hidden.shape[1] * hidden.itemsize
        view = hidden.view(torch.uint8).numpy().reshape(-1).data
        for rows, start in zip(action.rows, action.starts, strict=True):
            data = view[start * row_bytes : (start + rows.count) * row_bytes]
            self._journal.append(rows.session, rows.position, rows.count, data, shape)

    def tokens(self, peer: Peer, rows: tuple[Rows, ...], token_ids: torch.Tensor) -> None:
        """Push drawn tokens, int32 [num_sessions], to the head."""
        self.send(peer, write_batch(rows, token_ids), Lane.DECODE)

    async def replay(self, action: Replay) -> bool:
        """Push rows of the journal until the peer has all that have landed; False if they are not there any more.

        Other sessions' rows go on between two frames.
        """
        while (found := self._table.next_replay(action, self._max_rows(action.session))) is not None:
            peer, rows = found
            shape = self._journal.shape(rows.session)
            data = self._journal.read(rows.session, rows.position, rows.position + rows.count)
            if data is None or shape is None or shape.hidden_size is None:
                return False
            self.send(peer, write_bytes([rows], shape.dtype, (rows.count, shape.hidden_size), data), Lane.PREFILL)
            await asyncio.sleep(0)
            while self._table.is_replaying(action) and self._num_queued(peer) > MAX_QUEUED_REPLAYS:  # noqa: ASYNC110
                await asyncio.sleep(QUEUE_CHECK_S)  # links don't say when they have written
        return True

    def send(self, peer: Peer, message: edge_pb2.LinkMessage, lane: Lane) -> None:
        """Put a message on the link to a peer, dialled if there is none."""
        try:
            self._pool.wire(peer.node_id, peer.address, lane).send(message)
        except OsaiError as e:
            log.warning("node %s can't be pushed to: %s", peer.node_id, e)
            self._on_unreachable(peer.node_id)

    def _max_rows(self, session: int) -> int:
        shape = self._journal.shape(session)
        if shape is None or shape.hidden_size is None:
            return MAX_REPLAYED_ROWS
        return min(MAX_REPLAYED_ROWS, MAX_FRAME_BYTES // (shape.hidden_size * ITEM_BYTES[shape.dtype]))

    def _num_queued(self, peer: Peer) -> int:
        return self._pool.num_queued(peer.node_id, peer.address, Lane.PREFILL)


def _cut(hidden: torch.Tensor, slices: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Those rows of `hidden`, [num_tokens, hidden_size]; mostly they are all, and nothing is copied."""
    if len(slices) > 1:
        return torch.cat([hidden[start:end] for start, end in slices])
    start, end = slices[0]
    return hidden if end - start == len(hidden) else hidden[start:end]
