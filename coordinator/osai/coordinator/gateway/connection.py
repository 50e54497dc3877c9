"""A connection of the HTTP server that has a bounded time for the head of each request."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_DEADLINE_S = 15.0


class BoundedHead(H11Protocol):
    """uvicorn's, which bounds the time between requests, but neither before the first one nor within a head.

    Connections that send nothing, or a head byte by byte, would use up the process's file descriptors.
    """

    head_deadline_s = HEAD_DEADLINE_S
    _head_until_s: float | None = None  # on the loop's clock; None while no head is awaited, or none has begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Await the first head."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that they leave unfinished has to end in time."""
        super().data_received(data)
        under_way = self.cycle is not None and not self.cycle.response_complete
        if under_way or self.transport.is_closing():
            self._head_until_s = None
        elif self.timeout_keep_alive_task is None:
            self._await_head()

    def _await_head(self) -> None:
        """The same timer serves that uvicorn has between requests."""
        self._head_until_s = self._head_until_s or self.loop.time() + self.head_deadline_s
        self.timeout_keep_alive_task = self.loop.call_at(self._head_until_s, self.timeout_keep_alive_handler)
