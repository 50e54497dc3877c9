"""The page's server-sent events, to a bounded number of readers."""

import asyncio

from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from osai.coordinator.health.frames import Frames

MAX_READERS = 400  # each holds a connection; the others' pages ask every few seconds
RETRY_S = 60
SEND_DEADLINE_S = 10.0  # for a reader to take what waits for him
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]


class Readers:
    """Counts who reads the stream."""

    def __init__(self, most: int = MAX_READERS) -> None:
        self._most = most
        self.num_readers = 0

    def stream(self, frames: Frames, seen_id: str) -> Response:
        """The stream for one more reader, who has seen that frame; a 503 where there are enough."""
        if self.num_readers >= self._most:
            text = "enough pages are live; ask for / every few seconds instead\n"
            return PlainTextResponse(text, status_code=503, headers={"Retry-After": str(RETRY_S)})
        return FrameStream(frames, self, seen_id)


class FrameStream(Response):
    """A response that goes on with each frame until its reader is gone, stalls, or the server stops."""

    def __init__(self, frames: Frames, readers: Readers, seen_id: str) -> None:
        super().__init__()
        self._frames = frames
        self._readers = readers
        self._seen_id = seen_id

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send frames: the ASGI side of a response."""
        self._readers.num_readers += 1
        sending = asyncio.create_task(self._send_all(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._readers.num_readers -= 1
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await _send_soon(send, b"retry: 2000\n\n")
            while (frame := await self._frames.after(self._seen_id)) is not None:
                await _send_soon(send, frame.event_for(self._seen_id))
                self._seen_id = frame.frame_id
            await send({"type": "http.response.body", "body": b""})
        except (TimeoutError, OSError):
            return  # he has stalled, or gone: what he misses comes whole when he is back


async def _send_soon(send: Send, body: bytes) -> None:
    async with asyncio.timeout(SEND_DEADLINE_S):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
