"""The routes of the coordinator's HTTP interface, as Markdown."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from prometheus_client import CollectorRegistry

from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics

Schema = Mapping[str, Any]
MAX_TYPE_CHARS = 120
_SPACE = re.compile(r"\s+")


class NoGenerations:
    """Stands where a coordinator's generations do: the document of the routes asks nothing of them."""

    def swarm(self) -> NoReturn:
        """Nobody asks."""
        raise NotImplementedError

    def plan(self, *_: object) -> NoReturn:
        """Nobody asks."""
        raise NotImplementedError

    def generate(self, *_: object) -> NoReturn:
        """Nobody asks."""
        raise NotImplementedError

    def embed(self, *_: object) -> NoReturn:
        """Nobody asks."""
        raise NotImplementedError


def openapi() -> Schema:
    """The gateway's OpenAPI document, as a coordinator serves it at /openapi.json."""
    app = create_app(NoGenerations(), metrics=Metrics(CollectorRegistry()))
    return app.openapi()


def describe_routes(document: Schema) -> str:
    """A section for each route, in the document's order."""
    parts = [
        "\n\n".join(_route(document, method, path, route))
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    return "\n\n".join(parts)


def _route(document: Schema, method: str, path: str, route: Schema) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`"
    yield str(route.get("description") or route.get("summary", "")).strip()
    body = route.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        schema = _resolved(document, content["schema"])
        yield f"Body, `{kind}`:"
        yield "\n".join(["| field | type | |", "|---|---|---|", *_fields(document, schema)])
    answers = [f"- {status}: {_line(answer.get('description', ''))}" for status, answer in route["responses"].items()]
    yield "Answers:\n" + "\n".join(answers)


def _fields(document: Schema, schema: Schema) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        notes = [_line(field.get("description", ""))]
        if name in required:
            notes.insert(0, "Required.")
        elif field.get("default") is not None:
            notes.insert(0, f"Default: `{field['default']}`.")
        yield f"| `{name}` | {_type(document, field)} | {' '.join(note for note in notes if note)} |"


def _type(document: Schema, schema: Schema) -> str:
    text = " or ".join(dict.fromkeys(_types(document, schema)))
    return text if len(text) <= MAX_TYPE_CHARS else "see the document"


def _types(document: Schema, schema: Schema) -> Iterator[str]:
    if "$ref" in schema:
        yield str(schema["$ref"]).rpartition("/")[2]
    elif options := schema.get("anyOf") or schema.get("oneOf"):
        for option in options:
            if option.get("type") != "null":
                yield from _types(document, option)
    elif values := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        yield ", ".join(f"`{value}`" for value in values)
    elif schema.get("type") == "array":
        yield f"list of {_type(document, schema.get('items', {})) or 'anything'}"
    else:
        kinds = schema.get("type", "any")
        yield _bounded(kinds if isinstance(kinds, str) else ", ".join(kinds), schema)


def _bounded(kind: str, schema: Schema) -> str:
    words = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}",
             "maxLength": "at most {} characters", "maxItems": "at most {}"}  # fmt: skip
    bounds = [text.format(schema[key]) for key, text in words.items() if key in schema]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


def _resolved(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _line(text: str) -> str:
    return _SPACE.sub(" ", text).strip().replace("|", "\\|")
