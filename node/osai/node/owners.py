"""The peers that have dialled in to this node's edge: those that may own sessions, and what they are to be told."""

import logging
from dataclasses import dataclass

from osai.core.errors import OsaiError
from osai.core.link import Outbox
from osai.proto import edge_pb2

log = logging.getLogger(__name__)

MAX_QUEUED_REPLIES = 4096  # tokens and failures for one coordinator; one that is further behind is as good as lost


@dataclass(frozen=True, slots=True)
class _Owner:
    peer: str
    outbox: Outbox[edge_pb2.LinkMessage]


class Owners:
    """Peers by the numbers of their links."""

    def __init__(self) -> None:
        self._owners: dict[int, _Owner] = {}
        self._num_attached = 0

    def __len__(self) -> int:
        return len(self._owners)

    def attach(self, peer: str) -> tuple[int, Outbox[edge_pb2.LinkMessage]]:
        """A peer's link has begun: its number, and where what it is told comes out."""
        self._num_attached += 1
        outbox: Outbox[edge_pb2.LinkMessage] = Outbox(peer, MAX_QUEUED_REPLIES)
        self._owners[self._num_attached] = _Owner(peer, outbox)
        return self._num_attached, outbox

    def detach(self, owner: int) -> None:
        """The link has ended."""
        self._owners.pop(owner, None)

    def peer(self, owner: int) -> str:
        """The id that a peer greeted with; empty once its link has ended."""
        at = self._owners.get(owner)
        return at.peer if at else ""

    def tell(self, owner: int, message: edge_pb2.LinkMessage) -> bool:
        """Queue a message; whether there is still a peer that takes it, or none any more."""
        at = self._owners.get(owner)
        if at is None:
            return True  # its link has ended, and its sessions with it
        try:
            at.outbox.put(message)
        except OsaiError as e:
            log.warning("dropping a peer that does not read: %s", e)
            return False
        return True
