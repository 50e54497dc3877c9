"""Rows on their way to the engine: run, held until their epoch begins, or dropped."""

import logging
from collections.abc import Callable, Sequence

import torch

from osai.core.errors import NotFiniteError, OsaiError
from osai.node.engine.api import Input, Rows
from osai.node.engine.engine import Engine
from osai.node.stages.held_rows import HeldRows
from osai.node.stages.stage import Action
from osai.node.stages.table import StageTable
from osai.node.wire import write_failed
from osai.proto import edge_pb2

log = logging.getLogger(__name__)


class Feeding:
    """Gives rows to the engine.

    Args:
        table: decides.
        engine: runs them.
        held: those that wait for their epoch to begin.
        peer_of: the id that the peer of a number greeted with.
        tell: gives a message to the peer of a number.
        perform: carries out actions.
    """

    def __init__(
        self,
        table: StageTable,
        engine: Engine,
        held: HeldRows,
        peer_of: Callable[[int], str],
        tell: Callable[[int, edge_pb2.LinkMessage], None],
        perform: Callable[[Sequence[Action]], None],
    ) -> None:
        self._table, self._engine, self._held = table, engine, held
        self._peer_of, self._tell, self._perform = peer_of, tell, perform

    def submit(self, rows: Rows, data: torch.Tensor, sender: int | None) -> None:
        """Take rows; where they are refused, tell `sender`, or end the session if they are this node's own.

        Args:
            rows: whose they are.
            data: [count] int32 token ids, or [count, hidden_size].
            sender: the peer that they came from.
        """
        try:
            match self._table.take(rows):
                case "run":
                    self._run(rows, data)
                case "hold":
                    self._held.add(rows, data, sender)
                case "drop":
                    log.info("dropped rows %d to %d of session %016x, epoch %d", rows.position,
                             rows.position + rows.count, rows.session, rows.epoch)  # fmt: skip
        except OsaiError as e:
            if sender is None:
                self._perform(self._table.fail(rows.session, e))
            else:
                if isinstance(e, NotFiniteError):
                    e.subject = self._peer_of(sender)
                self._tell(sender, write_failed(rows.session, rows.epoch, e))

    def _run(self, rows: Rows, data: torch.Tensor) -> None:
        try:
            self._engine.submit(Input(rows=rows, data=data.long() if data.dtype == torch.int32 else data))
        except OsaiError:
            self._table.untake(rows)
            raise
