"""Bounds a request's body in size and time, before anything reads it."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osai.coordinator.gateway.delivery import error_response
from osai.coordinator.gateway.errors import ParameterError
from osai.coordinator.gateway.limits import GatewayLimits

_DRAIN_FACTOR = 4  # of an oversized body so much is read and dropped: an answer in mid-upload would be lost in a reset


class BodyLimit:
    """ASGI middleware: takes the whole body first, and hands it on in one message."""

    def __init__(self, app: ASGIApp, *, limits: GatewayLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 or 408, or pass the request on."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._limits.body_deadline_s):
                body = await self._read(receive)
        except ParameterError as e:
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
                parts.append(part)
            more = message.get("more_body", False)
        if num_bytes > most:
            text = f"the body is larger than {most} bytes; send less"
            raise ParameterError(text, param=None, detail="request_too_large", status=413)
        return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what really comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
