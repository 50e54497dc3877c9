"""Refuses a request without a good API key before its body is kept."""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from osai.coordinator.gateway.error_response import error_response
from osai.coordinator.keys.caller import caller_of
from osai.coordinator.keys.keyring import Keyring
from osai.core.errors import UnauthenticatedError

KEYED = ("/v1/", "/api/")
DROPPED_BYTES = 2**20  # of a refused body are read: an answer in mid-upload would be lost in a reset
DROP_DEADLINE_S = 2.0


def authorization_of(headers: Headers) -> str | None:
    """The header `Authorization`, or what it would be where the key comes as Anthropic's clients send it."""
    key = headers.get("x-api-key")
    return headers.get("authorization") or (None if key is None else f"Bearer {key}")


class KeyCheck:
    """ASGI middleware: what asks for a key gets a 401 without one.

    The endpoints look at the key again, for what it may do: a path that this did not know would still not be open.
    """

    def __init__(self, app: ASGIApp, *, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or pass the request on."""
        if scope["type"] == "http" and scope["path"].startswith(KEYED):
            try:
                caller_of(self._keyring, authorization_of(Headers(scope=scope)))
            except UnauthenticatedError as e:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DROP_DEADLINE_S):
                        await _drop_body(receive)
                await error_response(e)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _drop_body(receive: Receive) -> None:
    num_bytes = 0
    while num_bytes <= DROPPED_BYTES:
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if not message.get("more_body", False):
            return
