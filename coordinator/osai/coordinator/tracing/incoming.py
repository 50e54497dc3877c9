"""The caller's own span, as the front doors find it in `traceparent`, for the request that its task runs."""

from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from osai.core.tracing.span import SpanRef, read_trace_parent

HEADER = "traceparent"

_CALLER: ContextVar[SpanRef | None] = ContextVar("osai_trace_caller", default=None)


def take_caller(header: str | bytes | None) -> None:
    """From here on this task runs a request of that caller; a malformed header is none."""
    text = header.decode("ascii", "replace") if isinstance(header, bytes) else header
    _CALLER.set(read_trace_parent(text))


def caller() -> SpanRef | None:
    """The span of whoever sent the request that this task runs; None where they sent none."""
    return _CALLER.get()


class TraceParent:
    """ASGI middleware: takes `traceparent` from every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":  # each has a task of its own, or one after the other of its connection's
            take_caller(Headers(scope=scope).get(HEADER))
        await self._app(scope, receive, send)
