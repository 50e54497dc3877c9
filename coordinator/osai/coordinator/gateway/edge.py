"""The outermost layer of the front door: request ids, counting, and the last catch."""

import asyncio
import logging
import re
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osai.coordinator.gateway.delivery import STOPPING
from osai.coordinator.gateway.error_response import REQUEST_ID, error_response, internal_error
from osai.coordinator.gateway.metrics import Metrics
from osai.core.errors import UnavailableError

logger = logging.getLogger(__name__)

_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # goes into a header and the log: nothing that could break either
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware: every response carries X-Request-Id, is counted, and no exception leaves untyped."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, random_bits: Callable[[int], int]) -> None:
        self._app = app
        self._metrics = metrics
        self._random_bits = random_bits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else f"req_{self._random_bits(128):032x}"
        scope[REQUEST_ID] = request_id
        status = 0  # none sent

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, marked)
        except asyncio.CancelledError:
            # The server stops. This is the request's own task, so the cancellation ends here with its answer.
            if not status:
                await error_response(UnavailableError(STOPPING))(scope, receive, marked)
        except Exception:  # the edge of a request
            logger.exception("request %s failed", request_id)
            if status:
                raise  # the response is cut off, so that it can't look complete
            await error_response(internal_error(request_id))(scope, receive, marked)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")  # the template: few, whatever clients send
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.http_requests.labels(method, route, str(status or "none")).inc()
