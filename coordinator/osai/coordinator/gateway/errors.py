"""The tree of typed errors as HTTP statuses and OpenAI's error object. Pure."""

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from osai.coordinator.keys.meter import QuotaExceededError
from osai.core import errors
from osai.proto import common_pb2

Json = dict[str, Any]

RETRY_BUSY_S = 1  # blocks and queue places come back as generations end
RETRY_UNAVAILABLE_S = 5  # about as long as a lost stage takes to be replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpError:
    """One error as it leaves by HTTP.

    Attributes:
        status: the HTTP status.
        body: OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`.
        headers: what goes with it; `Retry-After` in seconds where trying again may help.
    """

    status: int
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


class ParameterError(errors.InvalidRequestError):
    """A parameter of an HTTP request is wrong.

    Attributes:
        param: the parameter's path in the body, as in `messages[0].content`; None where the body as a whole is meant.
        detail: OpenAI's `code`, for programs.
        status: the HTTP status, 400 unless HTTP has a better one.
    """

    def __init__(self, message: str, *, param: str | None, detail: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message, subject=param or "")
        self.param = param
        self.detail = detail
        self.status = status


@dataclass(frozen=True, slots=True)
class _Rule:
    status: int
    kind: str
    retry_after_s: int | None = None
    challenge: str | None = None  # WWW-Authenticate


# The first class that fits decides, so subclasses come before their parents.
_RULES: tuple[tuple[type[errors.OsaiError], _Rule], ...] = (
    (errors.UnknownModelError, _Rule(404, "invalid_request_error")),
    (errors.InvalidRequestError, _Rule(400, "invalid_request_error")),
    (QuotaExceededError, _Rule(429, "rate_limit_exceeded", RETRY_BUSY_S)),
    (errors.ResourceExhaustedError, _Rule(429, "rate_limit_error", RETRY_BUSY_S)),
    (errors.UnauthenticatedError, _Rule(401, "invalid_request_error", challenge='Bearer realm="osai"')),
    (errors.ForbiddenError, _Rule(403, "permission_error")),
    (errors.NotCoveredError, _Rule(503, "server_error", RETRY_UNAVAILABLE_S)),
    (errors.UnavailableError, _Rule(503, "server_error", RETRY_UNAVAILABLE_S)),
    (errors.DeadlineExceededError, _Rule(504, "server_error")),
    (errors.OsaiError, _Rule(500, "server_error")),
)
# OpenAI's own words where it has them; the others are the names of osai.v1.ErrorCode.
_OPENAI_CODES: dict[type[errors.OsaiError], str] = {
    errors.UnknownModelError: "model_not_found",
    errors.ContextExceededError: "context_length_exceeded",
    errors.UnauthenticatedError: "invalid_api_key",
    errors.ForbiddenError: "insufficient_permissions",
    QuotaExceededError: "rate_limit_exceeded",
}


def error_code(error: errors.OsaiError) -> str:
    """The stable name of an error, as in `not_covered`; also a metrics label."""
    return common_pb2.ErrorCode.Name(error.code).removeprefix("ERROR_CODE_").lower()


def http_error(error: errors.OsaiError) -> HttpError:
    """The HTTP form of a typed error."""
    if isinstance(error, ParameterError):
        body = error_body(error.message, kind="invalid_request_error", param=error.param, code=error.detail)
        return HttpError(status=error.status, body=body)
    rule = next(rule for kind, rule in _RULES if isinstance(error, kind))
    code = _OPENAI_CODES.get(type(error), error_code(error))
    param = "model" if isinstance(error, errors.UnknownModelError) else None
    return HttpError(
        status=rule.status,
        body=error_body(error.message, kind=rule.kind, param=param, code=code),
        headers=_headers(error, rule),
    )


_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(error: HttpError, request_id: str) -> HttpError:
    """The same error in Anthropic's shape."""
    kind = _ANTHROPIC_KINDS.get(error.status, "api_error")
    told = {"type": kind, "message": error.body["error"]["message"]}
    more = {name: value for name, value in error.body["error"].items() if name == "partial"}
    body = {"type": "error", "error": told | more, "request_id": request_id}
    return HttpError(status=error.status, body=body, headers=error.headers)


def _headers(error: errors.OsaiError, rule: _Rule) -> dict[str, str]:
    headers = {} if rule.challenge is None else {"WWW-Authenticate": rule.challenge}
    if rule.retry_after_s is not None:
        known_s = error.retry_after_s if isinstance(error, errors.ResourceExhaustedError) else 0.0
        headers["Retry-After"] = str(ceil(known_s) or rule.retry_after_s)
    return headers


def error_body(message: str, *, kind: str, param: str | None, code: str | None) -> Json:
    """OpenAI's error object. A message may quote what the client sent; what UTF-8 can't carry is escaped."""
    safe = message.encode("utf-8", "backslashreplace").decode()
    safe_param = None if param is None else param.encode("utf-8", "backslashreplace").decode()
    return {"error": {"message": safe, "type": kind, "param": safe_param, "code": code}}
