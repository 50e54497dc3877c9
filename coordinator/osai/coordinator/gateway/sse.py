"""Server-sent events as ASGI messages."""

import json
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osai.coordinator.gateway.errors import Json

DONE = b"data: [DONE]\n\n"
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the tokens back
)


def stream_start() -> Message:
    """The message that opens a stream of events."""
    return {"type": "http.response.start", "status": 200, "headers": list(_HEADERS)}


def stream_part(body: bytes) -> Message:
    """The message that carries some events, with more to come."""
    return {"type": "http.response.body", "body": body, "more_body": True}


def stream_comment(text: str) -> bytes:
    """A comment, which clients skip: it keeps the connection alive, and shows what goes on."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


def stream_end(body: bytes) -> ASGIApp:
    """What ends a stream: its last bytes, as the rest of a response."""

    async def end(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": body})

    return end


def encode_events(payloads: Sequence[Json]) -> bytes:
    """One event a payload."""
    return b"".join(b"data: " + _encoded(payload) + b"\n\n" for payload in payloads)


def encode_named(payloads: Sequence[Json]) -> bytes:
    """One event a payload, of the name that its `type` is."""
    return b"".join(
        b"event: " + str(payload["type"]).encode() + b"\ndata: " + _encoded(payload) + b"\n\n" for payload in payloads
    )


def _encoded(payload: Json) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
