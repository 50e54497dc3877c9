"""Sessions open, go on and close: what the coordinator says of them, carried out on table, engine and journal."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from osai.core.errors import OsaiError, ResourceExhaustedError
from osai.node.engine.api import Rows
from osai.node.engine.engine import Engine
from osai.node.grammars import Grammars
from osai.node.stages.held_rows import HeldRows
from osai.node.stages.journal import Journal
from osai.node.stages.stage import Action, Opening, Release
from osai.node.stages.table import StageTable
from osai.node.wire import read_follow, read_hashes, read_open, read_resume, write_failed
from osai.proto import edge_pb2

log = logging.getLogger(__name__)


class SessionDesk:
    """Takes what owners want of sessions.

    Args:
        table: decides.
        engine: holds their KV.
        journal: what is kept of the rows put out.
        held: rows that wait for their epoch to begin.
        grammars: compiles those of sessions.
        tell: gives a message to the peer of a number.
        perform: carries out actions.
    """

    def __init__(
        self,
        table: StageTable,
        engine: Engine,
        journal: Journal,
        held: HeldRows,
        grammars: Grammars,
        tell: Callable[[int, edge_pb2.LinkMessage], None],
        perform: Callable[[Sequence[Action]], None],
    ) -> None:
        self._table, self._engine, self._journal, self._held = table, engine, journal, held
        self._grammars = grammars
        self._tell, self._perform = tell, perform

    async def open(self, owner: int, scope: str, message: edge_pb2.OpenSession) -> bool:
        """Open a session, or a later epoch of one; whether it is open by now.

        Sessions of one peer, the `scope`, share KV with each other alone: what it says of blocks harms nobody else's.
        """
        session = message.session
        try:
            request = read_open(message)
            constraint = await self._grammars.constraint(request)  # nothing may be half open meanwhile
            opening = self._table.open(request, owner, scope)
            opening = replace(opening, spec=replace(opening.spec, constraint=constraint))
        except OsaiError as e:
            self._tell(owner, write_failed(session, message.epoch, e))
            return False
        self._held.take(session)  # of an older epoch
        try:
            position = await self._continue(opening)
            anew = position is None
            position = await self._enter(opening) if position is None else position
        except OsaiError as e:
            self._perform(self._table.fail(session, e))
            return False
        self._table.opened(session, position, anew=anew)
        opened = edge_pb2.SessionOpened(session=session, epoch=message.epoch)
        if message.resume or message.follow:
            opened.position, opened.journal_begin = position, self._journal.begin(session, position)
        if anew:
            opened.num_cached_tokens = position
        self._tell(owner, edge_pb2.LinkMessage(opened=opened))
        return True

    async def _continue(self, opening: Opening) -> int | None:
        """Let a session that is here go on; the row from which it does, or None if it is to be opened anew."""
        spec, position = opening.spec, opening.cut_to
        if position is None:
            return None
        try:
            await self._engine.resume(spec, position)
        except OsaiError as e:  # a window has moved on, perhaps: other stages' rows can bring all of it back
            log.info("session %016x is opened anew: %s", spec.session, e)
            self._engine.release(spec.session)
            return None
        self._journal.cut(spec.session, position)
        return position

    async def _enter(self, opening: Opening) -> int:
        """Open a session in the engine, in place of orphans if need be; tokens of its prompt whose KV is here."""
        self._journal.drop(opening.spec.session)
        while True:
            try:
                return await self._engine.open(opening.spec)
            except ResourceExhaustedError:
                if not (evicted := self._table.evict_orphan(opening.spec.span)):
                    raise
                self._perform(evicted)

    async def resume(self, owner: int, message: edge_pb2.ResumeSession) -> list[tuple[Rows, torch.Tensor, int | None]]:
        """An epoch begins; the rows that have come for it already, each with the link that it came by."""
        request = read_resume(message)
        try:
            if not self._table.begins(request, owner):
                return []
            await self._engine.cut(request.session, request.position)
        except OsaiError as e:
            self._refuse(owner, message.session, message.epoch, e)
            return []
        self._journal.cut(request.session, request.position)
        self._perform(self._table.begin(request))
        return self._held.take(request.session)

    def follow(self, owner: int, message: edge_pb2.FollowSession) -> None:
        """Push rows to a standby of the successor too, or no longer."""
        try:
            self._perform(self._table.follow(read_follow(message), owner))
        except OsaiError as e:
            self._refuse(owner, message.session, message.epoch, e)

    def close(self, owner: int, message: edge_pb2.CloseSession) -> None:
        """End a session; whoever names blocks that it can't have is told, and none are kept."""
        hashes: tuple[bytes, ...] = ()
        try:
            hashes = read_hashes(message.block_hashes, self._table.num_nameable_blocks(message.session, owner))
        except OsaiError as e:
            self._tell(owner, write_failed(message.session, 0, e))
        self._perform(self._table.close(message.session, hashes, message.epoch))

    def release(self, action: Release) -> None:
        """Free what is held of a session, here and now: the next message may open one, which needs the room."""
        self._engine.release(action.session, action.block_hashes)
        self._journal.drop(action.session)
        self._held.take(action.session)

    def _refuse(self, owner: int, session: int, epoch: int, error: OsaiError) -> None:
        """A session can't go on as its owner wants: it ends here; where it is not open, `owner` is told alone."""
        actions = self._table.fail(session, error)
        if actions:
            self._perform(actions)
        else:
            self._tell(owner, write_failed(session, epoch, error))
