"""What the OpenAPI document says of responses. Pure."""

from typing import Any

from osai.coordinator.gateway.errors import Json

Responses = dict[int | str, dict[str, Any]]

_TEXT: Json = {"type": "string"}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_OPENAI_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL},
        }
    },
}
_ANTHROPIC_ERROR: Json = {
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {"type": "object", "required": ["type", "message"], "properties": {"type": _TEXT, "message": _TEXT}},
        "request_id": _TEXT,
    },
}
_ERRORS = {
    "4XX": "The request is wrong, needs a key, or has to wait: then `Retry-After` says how many seconds.",
    "5XX": "The swarm can't serve it now; of a 503 `Retry-After` says when to try again.",
}


def _object(kind: str, **fields: Json) -> Json:
    return {
        "type": "object",
        "required": ["object", *fields],
        "properties": {"object": {"const": kind}, **fields},
    }


_LIST: Json = {"type": "array"}
_NUMBER: Json = {"type": "integer"}
_OBJECT: Json = {"type": "object"}
CHAT = _object("chat.completion", id=_TEXT, created=_NUMBER, model=_TEXT, choices=_LIST, usage=_OBJECT)
COMPLETION = _object("text_completion", id=_TEXT, created=_NUMBER, model=_TEXT, choices=_LIST, usage=_OBJECT)
RESPONSE = _object("response", id=_TEXT, created_at=_NUMBER, model=_TEXT, output=_LIST, usage=_OBJECT, status=_TEXT)
EMBEDDINGS = _object("list", data=_LIST, model=_TEXT, usage=_OBJECT)
MESSAGE: Json = {
    "type": "object",
    "required": ["id", "type", "role", "model", "content", "stop_reason", "usage"],
    "properties": {"type": {"const": "message"}, "content": _LIST, "usage": _OBJECT},
}

METRICS: Responses = {
    200: {
        "description": "The metrics, in the text form that Prometheus asks for.",
        "content": {"text/plain": {"schema": _TEXT}, "application/openmetrics-text": {"schema": _TEXT}},
    }
}


def errors(*, anthropic: bool = False) -> Responses:
    """The errors of every endpoint."""
    schema = _ANTHROPIC_ERROR if anthropic else _OPENAI_ERROR
    return {status: {"description": text, "content": _json(schema)} for status, text in _ERRORS.items()}


def answers(schema: Json, *, stream: bool = True, anthropic: bool = False) -> Responses:
    """An endpoint's answer, plain and as a stream of server-sent events, and its errors."""
    content = _json(schema) | ({"text/event-stream": {"schema": _TEXT}} if stream else {})
    return {200: {"description": "The answer.", "content": content}, **errors(anthropic=anthropic)}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}
