"""docs/api.md is made of the code; here it is seen that it is current, and that it leaves nothing out."""

import re
from pathlib import Path

import pytest
from scripts.api_reference.__main__ import FILE, main, reference
from scripts.api_reference.http_routes import describe_routes, openapi

import osai.client


def test_the_reference_is_what_the_code_says() -> None:
    assert FILE.read_text() == reference(), "run scripts/api_docs"


def test_every_public_name_and_route_has_its_section() -> None:
    headings = set(re.findall(r"^### `(.+)`$", FILE.read_text(), re.MULTILINE))
    routes = {f"{method.upper()} {path}" for path, methods in openapi()["paths"].items() for method in methods}
    assert {*osai.client.__all__} | routes == headings
    assert {"AsyncClient", "Client", "POST /v1/chat/completions", "GET /v1/models"} <= headings


def test_a_field_is_told_with_its_type_its_bounds_and_its_default() -> None:
    schema = {"type": "object", "required": ["n"], "properties": {
        "n": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "description": "How\nmany | at once."},
        "kind": {"enum": ["a", "b"], "default": "a"},
        "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}},
    }}  # fmt: skip
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}}}
    route = {"summary": "Ask", "requestBody": body, "responses": {"200": {"description": "Told."}}}
    text = describe_routes({"paths": {"/x": {"post": route}}, "components": {"schemas": {"Body": schema}}})
    assert "| `n` | integer (≥ 1) | Required. How many \\| at once. |" in text
    assert "| `kind` | `a`, `b` | Default: `a`. |" in text
    assert "| `parts` | list of Part |  |" in text
    assert "- 200: Told." in text


def test_a_stale_reference_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scripts.api_reference.__main__ as module

    stale = tmp_path / "api.md"
    stale.write_text("old")
    monkeypatch.setattr(module, "FILE", stale)
    assert [main(["--check"]), main([]), main(["--check"]), main(["--wrong"])] == [1, 0, 0, 2]
    assert stale.read_text() == reference()
