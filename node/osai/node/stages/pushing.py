"""What leaves a stage for its neighbours: rows as they land, and drawn tokens."""

import logging
from collections.abc import Callable

import torch

from osai.core.errors import OsaiError
from osai.core.frames import FrameShape
from osai.core.link_pool import Lane, LinkPool
from osai.node.engine.api import Rows
from osai.node.stages.journal import Journal
from osai.node.stages.stage import Forward, Keep, Peer
from osai.node.wire import WIRE_DTYPES, write_batch
from osai.proto import edge_pb2

log = logging.getLogger(__name__)

Traffic = Callable[[str, str, int], None]  # over which kind of link, in which direction, how many bytes


class Pushing:
    """Sends rows on, and keeps them.

    Args:
        pool: the links.
        journal: what is kept.
        on_unreachable: called with the id of a peer that can't be pushed to.
        on_traffic: told of each message; None: nobody is.
    """

    def __init__(
        self,
        pool: LinkPool,
        journal: Journal,
        on_unreachable: Callable[[str], None],
        on_traffic: Traffic | None = None,
    ) -> None:
        self._pool, self._journal = pool, journal
        self._on_unreachable, self._on_traffic = on_unreachable, on_traffic
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

    def send(self, peer: Peer, message: edge_pb2.LinkMessage, lane: Lane) -> None:
        """Put a message on the link to a peer, dialled if there is none."""
        if self._on_traffic:
            self._on_traffic("dialled", "sent", message.ByteSize())
        try:
            self._pool.wire(peer.node_id, peer.address, lane).send(message)
        except OsaiError as e:
            log.warning("node %s can't be pushed to: %s", peer.node_id, e)
            self._on_unreachable(peer.node_id)

    def num_queued(self, peer: Peer) -> int:
        """Messages that wait at the link for prefill rows."""
        return self._pool.num_queued(peer.node_id, peer.address, Lane.PREFILL)


def _cut(hidden: torch.Tensor, slices: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Those rows of `hidden`, [num_tokens, hidden_size]; mostly they are all, and nothing is copied."""
    if len(slices) > 1:
        return torch.cat([hidden[start:end] for start, end in slices])
    start, end = slices[0]
    return hidden if end - start == len(hidden) else hidden[start:end]
