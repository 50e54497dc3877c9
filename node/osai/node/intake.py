"""Frames that come in over an edge: whose rows they are, and whether they fit the span that is to run them."""

from collections.abc import Callable
from itertools import accumulate

import torch

from osai.core.errors import BadFrameError, OsaiError
from osai.core.frames import FrameShape, check_batch, check_num_frames
from osai.node.engine.api import Rows
from osai.node.parties import Parties
from osai.node.stages.stage import HostedSpan
from osai.node.stages.table import StageTable
from osai.node.wire import read_rows, read_tensor, write_failed
from osai.proto import common_pb2, edge_pb2


class Intake:
    """Reads batches of frames.

    Args:
        table: the sessions.
        parties: who may push rows of which.
        tell: gives a message to the peer of a number; whoever sent a bad frame is told, and tells the session's owner
            if it knows it.
    """

    def __init__(
        self,
        table: StageTable,
        parties: Parties,
        tell: Callable[[int, edge_pb2.LinkMessage], None],
    ) -> None:
        self._table = table
        self._parties = parties
        self._tell = tell
        self._shapes: dict[str, FrameShape] = {}

    def serve(self, key: str, frames: FrameShape) -> None:
        """Take frames of that shape for the span of that key."""
        self._shapes[key] = frames

    def rows_of(self, sender: int, batch: edge_pb2.FrameBatch) -> list[tuple[Rows, torch.Tensor]]:
        """The rows that are to run, with their data: [count] int32 token ids, or [count, hidden_size].

        Raises:
            BadFrameError: if the batch has no frames, or far too many to look at.
        """
        check_num_frames(batch)
        rows = [read_rows(frame) for frame in batch.frames]
        spans = [self._span(sender, frame, part, batch.dtype) for frame, part in zip(batch.frames, rows, strict=True)]
        keys = {span.key for span in spans if span is not None}
        if not keys:
            return []
        try:
            self._check(batch, keys)
        except BadFrameError as e:
            for part in rows:
                self._tell(sender, write_failed(part.session, part.epoch, e))
            return []
        tensor = read_tensor(batch)  # [num_tokens] or [num_tokens, hidden_size]
        ends = accumulate(part.count for part in rows)
        return [
            (part, tensor if len(rows) == 1 else tensor[end - part.count : end])
            for part, end, span in zip(rows, ends, spans, strict=True)
            if span is not None
        ]

    def _span(
        self, sender: int, frame: edge_pb2.Frame, rows: Rows, dtype: common_pb2.DType.ValueType
    ) -> HostedSpan | None:
        try:
            self._parties.check_push(sender, frame, dtype)
            return self._table.span_of(rows)
        except OsaiError as e:
            self._tell(sender, write_failed(rows.session, rows.epoch, e))
            return None

    def _check(self, batch: edge_pb2.FrameBatch, keys: set[str]) -> None:
        if len(keys) > 1:
            raise BadFrameError("a batch's frames are for several models; send one batch a model")
        check_batch(batch, self._shapes[keys.pop()])
