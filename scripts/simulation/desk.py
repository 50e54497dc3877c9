"""Sessions open, go on and close on a simulated node: osai.node.stages.session_desk over the simulated engine."""

from collections.abc import Callable, Sequence

from scripts.simulation.engine import SimulatedEngine

from osai.core.errors import AssignmentError, OsaiError, ResourceExhaustedError
from osai.node.engine.api import Rows
from osai.node.stages.journal import Journal
from osai.node.stages.stage import Action, Opening
from osai.node.stages.table import StageTable
from osai.node.wire import read_follow, read_open, read_resume, write_failed
from osai.proto import edge_pb2

Tell = Callable[[int, edge_pb2.LinkMessage], None]
Held = list[tuple[int, Rows, list[int]]]  # the link that each came by, and its values


class SimulatedDesk:
    """Takes what owners want of sessions.

    Args:
        table: decides.
        journal: what is kept of the rows put out.
        tell: gives a message to the peer of a number.
        perform: carries out actions.

    Attributes:
        engine: of the span that is served; None while there is none.
    """

    def __init__(
        self, table: StageTable, journal: Journal, tell: Tell, perform: Callable[[Sequence[Action]], None]
    ) -> None:
        self.engine: SimulatedEngine | None = None
        self._table = table
        self._journal = journal
        self._tell = tell
        self._perform = perform
        self._held: dict[int, Held] = {}

    def hold(self, owner: int, rows: Rows, values: list[int]) -> None:
        """Rows have come before their epoch has begun."""
        self._held.setdefault(rows.session, []).append((owner, rows, values))

    def open(self, owner: int, peer: str, message: edge_pb2.OpenSession) -> None:
        """Open a session, or a later epoch of one."""
        session = message.session
        try:
            opening = self._table.open(read_open(message), owner, peer)
        except OsaiError as e:
            self._tell(owner, write_failed(session, message.epoch, e))
            return
        self._held.pop(session, None)
        try:
            position = self._admit(opening)
        except OsaiError as e:
            self._perform(self._table.fail(session, e))
            return
        self._table.opened(session, position, anew=opening.cut_to is None)
        begin = self._journal.begin(session, position)
        opened = edge_pb2.SessionOpened(session=session, epoch=message.epoch, position=position, journal_begin=begin)
        self._tell(owner, edge_pb2.LinkMessage(opened=opened))

    def _admit(self, opening: Opening) -> int:
        if self.engine is None:
            raise AssignmentError("no span is served here")
        session = opening.spec.session
        if opening.cut_to is not None:
            self.engine.resume(opening.spec, opening.cut_to)
            self._journal.cut(session, opening.cut_to)
            return opening.cut_to
        self._journal.drop(session)
        while True:
            try:
                self.engine.open(opening.spec)
            except ResourceExhaustedError:
                if not (evicted := self._table.evict_orphan(opening.spec.span)):
                    raise
                self._perform(evicted)
            else:
                return 0

    def resume(self, owner: int, message: edge_pb2.ResumeSession) -> Held:
        """An epoch begins; the rows that have come for it already."""
        request = read_resume(message)
        try:
            if not self._table.begins(request, owner) or self.engine is None:
                return []
            self.engine.cut(request.session, request.position)
            self._journal.cut(request.session, request.position)
        except OsaiError as e:
            self._refuse(owner, request.session, request.epoch, e)
            return []
        self._perform(self._table.begin(request))
        return self._held.pop(request.session, [])

    def follow(self, owner: int, message: edge_pb2.FollowSession) -> None:
        """Push rows to a standby of the successor too."""
        try:
            self._perform(self._table.follow(read_follow(message), owner))
        except OsaiError as e:
            self._refuse(owner, message.session, message.epoch, e)

    def close(self, message: edge_pb2.CloseSession) -> None:
        """End a session."""
        self._perform(self._table.close(message.session, epoch=message.epoch))

    def release(self, session: int) -> None:
        """Free what is held of a session."""
        if self.engine is not None:
            self.engine.release(session)
        self._journal.drop(session)
        self._held.pop(session, None)

    def _refuse(self, owner: int, session: int, epoch: int, error: OsaiError) -> None:
        actions = self._table.fail(session, error)
        self._perform(actions)
        if not actions:
            self._tell(owner, write_failed(session, epoch, error))
