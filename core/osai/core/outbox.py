"""Sending on a link: its bounds, and the queue between whoever sends and the task that writes to the peer."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from osai.core.errors import OsaiError, ResourceExhaustedError

QueuedT = TypeVar("QueuedT")
WiredT_contra = TypeVar("WiredT_contra", contravariant=True)


class Wire(Protocol[WiredT_contra]):
    """Something that carries messages to one peer, in order."""

    def send(self, message: WiredT_contra) -> None:
        """Queue a message; never blocks.

        Raises:
            UnavailableError: if the link is down.
            ResourceExhaustedError: if the peer does not keep up.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Bounds of a link.

    Attributes:
        greeting_deadline_s: from dialling to the peer's hello; three round trips of a slow link and a busy peer.
        max_queued_messages: a peer that is this far behind is as good as lost; decode needs one a session.
    """

    greeting_deadline_s: float = 5.0
    max_queued_messages: int = 4096


class Outbox(Generic[QueuedT]):
    """Messages that wait to be written to a peer, by one task."""

    def __init__(self, peer: str, max_queued_messages: int) -> None:
        self._peer = peer
        self._max_queued = max_queued_messages
        self._queue: deque[QueuedT] = deque()
        self._filled = asyncio.Event()
        self._closed: OsaiError | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and more is taken."""
        return not self._queue and self._closed is None

    @property
    def num_waiting(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._queue

    def put(self, message: QueuedT) -> None:
        """Queue a message.

        Raises:
            UnavailableError: if the link is down.
            ResourceExhaustedError: if the peer does not keep up.
        """
        if self._closed is not None:
            raise self._closed.with_traceback(None)  # one error for many callers: it must not grow with each
        if len(self._queue) >= self._max_queued:
            raise ResourceExhaustedError(f"{self._peer} does not keep up with its link", subject=self._peer)
        self._queue.append(message)
        self._filled.set()

    def close(self, reason: OsaiError) -> None:
        """Refuse what comes from now on with `reason`."""
        self._closed = reason

    async def filled(self) -> None:
        """Wait until there is a message to write; it stays here until `pop`."""
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()

    def pop(self) -> QueuedT:
        """The next message to write, of those that wait."""
        return self._queue.popleft()

    async def get(self) -> QueuedT:
        """The next message to write."""
        await self.filled()
        return self.pop()
