"""Bounds a request's body in size and time, before anything reads it."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osai.coordinator.gateway.error_response import error_response
from osai.coordinator.gateway.errors import ParameterError
from osai.coordinator.gateway.limits import GatewayLimits
from osai.core.errors import UnavailableError

_DRAIN_FACTOR = 4  # of an oversized body so much is read and dropped: an answer in mid-upload would be lost in a reset


class BodyLimit:
    """ASGI middleware: takes the whole body first, and hands it on in one message."""

    def __init__(self, app: ASGIApp, *, limits: GatewayLimits) -> None:
        self._app = app
        self._limits = limits
        self._num_incoming = 0  # bytes of bodies that are not complete yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 or 408, or pass the request on."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._limits.body_deadline_s):
                body = await self._read(receive)
        except (ParameterError, UnavailableError) as e:
            await error_response(e)(scope, receive, send)
        except TimeoutError:
            message = f"the body did not arrive within {self._limits.body_deadline_s:g} s"
            slow = ParameterError(message, param=None, detail="request_timeout", status=408)
            await error_response(slow)(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None if the client left before its end."""
        parts: list[bytes] = []
        try:
            return await self._parts(receive, parts)
        finally:
            self._num_incoming -= sum(map(len, parts))

    async def _parts(self, receive: Receive, parts: list[bytes]) -> bytes | None:
        num_bytes = 0
        most = self._limits.max_body_bytes
        more = True
        while more and num_bytes <= _DRAIN_FACTOR * most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            num_bytes += len(part)
            if num_bytes <= most:
                self._take(part, parts)
            more = message.get("more_body", False)
        if num_bytes > most:
            text = f"the body is larger than {most} bytes; send less"
            raise ParameterError(text, param=None, detail="request_too_large", status=413)
        return b"".join(parts)

    def _take(self, part: bytes, parts: list[bytes]) -> None:
        if self._num_incoming + len(part) > self._limits.max_incoming_bytes:
            raise UnavailableError("too many large requests are on their way in; send this one again a little later")
        parts.append(part)
        self._num_incoming += len(part)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what really comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
