"""Links between documents lead somewhere, and every document can be found from the index."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MAX_COMMANDS = 5
JOURNEYS = ("A volunteer", "A developer", "A company")


@pytest.fixture(scope="module")
def documents(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def links(path: Path) -> Iterator[str]:
    for target in _LINK.findall(_FENCE.sub("", path.read_text())):
        if "://" not in target:
            yield target


def anchors(path: Path) -> set[str]:
    """Of headings, as they are made for Markdown on the web."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_to_something(documents: list[Path]) -> None:
    broken = []
    for path in documents:
        for target in links(path):
            name, _, anchor = target.partition("#")
            there = (path.parent / name).resolve() if name else path
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.append(f"{path.name}: {target}")
    assert not broken


def test_the_index_has_every_document(root: Path, documents: list[Path]) -> None:
    listed = set(links(root / "docs" / "README.md"))
    assert {path.name for path in documents[1:]} - {"README.md"} <= listed


def test_each_kind_of_person_needs_few_commands(root: Path) -> None:
    text = (root / "README.md").read_text()
    first = text.index("```console")
    assert text.index("$ ./scripts/demo") - first < 100  # it begins with two commands
    for journey in JOURNEYS:
        section = re.split(r"^##", text[text.index(f"### {journey}") + 3 :], maxsplit=1, flags=re.MULTILINE)[0]
        commands = re.findall(r"^(?:\$ |```python)", section, re.MULTILINE)
        assert 1 <= len(commands) <= MAX_COMMANDS, journey
