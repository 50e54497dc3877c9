"""docs/troubleshooting.md speaks of every class of errors, and quotes only what the code says."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from osai.client import CoordinatorLostError
from osai.coordinator.gateway.errors import http_error
from osai.core import errors
from osai.core.errors import OsaiError

GAP = "\0"


def classes(above: type[OsaiError] = OsaiError) -> Iterator[str]:
    for one in above.__subclasses__():
        if one.__module__ == OsaiError.__module__:
            yield one.__name__
            yield from classes(one)


def texts(node: ast.AST) -> Iterator[str]:
    """Literals and f-strings of a module, with a gap where a value goes."""
    for found in ast.walk(node):
        if isinstance(found, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in found.values)
        elif isinstance(found, ast.Constant) and isinstance(found.value, str):
            yield found.value


@pytest.fixture(scope="module")
def document(root: Path) -> str:
    return (root / "docs" / "troubleshooting.md").read_text()


@pytest.fixture(scope="module")
def messages(room_folders: Mapping[str, Path]) -> tuple[str, ...]:
    modules = [ast.parse(path.read_text()) for name, folder in room_folders.items() if name != "proto"
               for path in folder.rglob("*.py")]  # fmt: skip
    return tuple({text for module in modules for text in texts(module) if len(text) > 10})


def quoted(document: str) -> list[str]:
    found = re.findall(r'(?:^- |, )"([^"]+)"', re.sub(r"\n {2}", " ", document), re.MULTILINE)
    return [" ".join(text.split()) for text in found]


def is_said(quote: str, messages: tuple[str, ...]) -> bool:
    parts = [re.escape(part.strip()) for part in quote.split("...") if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return any(pattern.search(message) for message in messages)


def test_every_class_has_its_section(document: str) -> None:
    headings = re.findall(r"^### `(\w+)`$", document, re.MULTILINE)
    assert len(set(headings)) == len(headings)
    assert {*classes(), CoordinatorLostError.__name__} == set(headings)


def test_every_message_that_is_quoted_is_one_of_the_codes(document: str, messages: tuple[str, ...]) -> None:
    quotes = quoted(document)
    assert len(quotes) > 20
    assert not [quote for quote in quotes if not is_said(quote, messages)]


def test_the_http_statuses_are_the_gateways(document: str) -> None:
    told = re.findall(r"^### `(\w+)`\n(?:HTTP (\d+))?", document, re.MULTILINE)
    statuses = {name: int(status) for name, status in told if status}
    assert len(statuses) > 8
    assert statuses == {name: http_error(getattr(errors, name)("x")).status for name in statuses}


def test_a_message_that_nothing_says_is_found_out(messages: tuple[str, ...]) -> None:
    assert is_said("no model ... is served; there are: ...", messages)
    assert not is_said("no model ... is served any more; there are: ...", messages)
