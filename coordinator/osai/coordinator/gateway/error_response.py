"""Errors as whole responses, in the shape of the API that was asked."""

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from osai.coordinator.gateway.errors import HttpError, Json, anthropic_error, http_error
from osai.core.errors import InternalError, OsaiError

REQUEST_ID = "osai.request_id"  # in the ASGI scope
ANTHROPIC = "/v1/messages"


class ErrorResponse(Response):
    """An error's response; which API was asked is seen when it is sent."""

    def __init__(self, error: HttpError) -> None:
        super().__init__(status_code=error.status, headers=error.headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        error = self._error
        if speaks_anthropic(scope):
            error = anthropic_error(error, scope.get(REQUEST_ID, ""))
        await JSONResponse(error.body, status_code=error.status, headers=error.headers)(scope, receive, send)


def error_response(error: OsaiError, partial: Json | None = None) -> ErrorResponse:
    """A typed error as a plain response; `partial` is what was generated before it."""
    shape = http_error(error)
    if partial is not None:
        shape.body["error"]["partial"] = partial
    return ErrorResponse(shape)


def internal_error(request_id: str) -> InternalError:
    """What a client is told of a bug."""
    return InternalError(f"the coordinator failed; its log says more under request id {request_id}")


def speaks_anthropic(scope: Scope) -> bool:
    """Whether Anthropic's API was asked."""
    path = str(scope.get("path", ""))
    return path == ANTHROPIC or path.startswith(f"{ANTHROPIC}/")
