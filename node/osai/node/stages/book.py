"""The sessions of a stage by their numbers, and those that closed not long ago. Pure."""

from collections import OrderedDict

from osai.core.errors import UnknownSessionError
from osai.node.stages.sessions import StageSession

NUM_REMEMBERED_CLOSED = 4096  # frames of a session may still be on their way when it closes


class SessionBook(dict[int, StageSession]):
    """Open sessions; of others, the epoch in which each closed. A dictionary, as each row of a step is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self._closed: OrderedDict[int, int] = OrderedDict()  # session -> epoch

    def get_open(self, session: int) -> StageSession:
        """The open session of that number.

        Raises:
            UnknownSessionError: if there is none.
        """
        if session not in self:
            raise UnknownSessionError(f"session {session:016x} is not open on this node")
        return self[session]

    def get_current(self, session: int, epoch: int) -> StageSession | None:
        """The session of that number, if it is open and in that epoch."""
        entry = self.get(session)
        return entry if entry is not None and entry.epoch == epoch else None

    def closed_epoch(self, session: int) -> int | None:
        """The epoch in which a session was closed last; None if it is open, or not known to have been."""
        return self._closed.get(session)

    def enter(self, entry: StageSession) -> None:
        """A session is open, in its newest epoch."""
        self[entry.number] = entry
        self._closed.pop(entry.number, None)

    def remove(self, session: int, epoch: int) -> None:
        """An open session is closed."""
        del self[session]
        self._closed[session] = epoch
        while len(self._closed) > NUM_REMEMBERED_CLOSED:
            self._closed.popitem(last=False)
