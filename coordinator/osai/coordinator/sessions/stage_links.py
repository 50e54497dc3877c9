"""The coordinator's links to stages, and the closing of sessions on nodes that can't be reached just now."""

import contextlib
import time
from dataclasses import dataclass

from osai.coordinator.api import StageView
from osai.core.errors import OsaiError
from osai.core.link_pool import LinkPool
from osai.proto import edge_pb2

CLOSE_S = 60.0  # so long a node keeps a session whose coordinator is gone; then it closes it by itself
MAX_PENDING = 4096  # sessions that are to be closed on nodes that are away; more than run at once


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    stage: StageView
    message: edge_pb2.LinkMessage
    until_s: float


class StageLinks:
    """Takes what sessions tell their stages.

    Args:
        links: dialled when first needed.
    """

    def __init__(self, links: LinkPool) -> None:
        self._links = links
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._leaves = False

    @property
    def has_pending(self) -> bool:
        """Whether some node is to be told, once it is back, that a session is over."""
        return bool(self._pending)

    def send(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        """Send a message to a stage.

        Raises:
            OsaiError: if it can't be queued.
        """
        self._links.wire(stage.node_id, stage.address).send(message)

    def close(self, stage: StageView, message: edge_pb2.LinkMessage) -> None:
        """Send a CloseSession, now or when the node is connected again: it is not dialled for this."""
        if self._leaves or self._sent(stage, message):
            return
        key = (stage.node_id, message.close.session)
        self._pending[key] = _Pending(stage=stage, message=message, until_s=time.monotonic() + CLOSE_S)
        while len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]

    def leave(self) -> None:
        """Close no session from now on: this coordinator stops, and clients go on with theirs at another one."""
        self._leaves = True

    def flush(self) -> None:
        """Tell nodes that have come back."""
        now_s = time.monotonic()
        for key, pending in list(self._pending.items()):
            if now_s >= pending.until_s or self._sent(pending.stage, pending.message):
                del self._pending[key]

    def _sent(self, stage: StageView, message: edge_pb2.LinkMessage) -> bool:
        wire = self._links.held(stage.node_id, stage.address)
        if wire is None:
            return False
        with contextlib.suppress(OsaiError):
            wire.send(message)
            return True
        return False
