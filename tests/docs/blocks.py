"""The commands of a document: lines that begin with `$ ` in blocks marked `console`, and what is shown below them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

PROGRAMS = (
    *("osai", "osai-node", "osai-coordinator", "pip", "python", "python3", "curl", "docker", "kubectl", "helm"),
    *("systemctl", "journalctl", "sudo", "apt-get", "source", "export", "mkdir", "chmod", "cp"),
)
SCRIPT = re.compile(r"^(\./)?scripts/\w+")
VERBATIM = frozenset({"python", "py", "toml", "yaml", "json", "ini", "text", "mermaid", "http"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of a document.

    Attributes:
        line: of the document, from 1.
        text: what is typed; a script's text where `language` is python.
        shown: the output that the document shows; empty where it shows none.
        language: console or python.
    """

    document: str
    line: int
    text: str
    shown: str = ""
    language: str = "console"

    @property
    def where(self) -> str:
        """For error messages."""
        return f"{self.document}:{self.line}: {self.text}"


def commands(path: Path) -> list[Command]:
    """Commands and Python examples of a document, in its order."""
    found: list[Command] = []
    for language, line, text in _code(path):
        if language == "python":
            found.append(Command(document=path.name, line=line, text=text, language=language))
        elif language == "console":
            found += _typed(path.name, line, text)
    return found


def strays(path: Path) -> list[str]:
    """Lines of other code blocks that are commands all the same: they would be run by nobody."""
    lines = [
        (line + i, text)
        for language, line, block in _code(path)
        if language != "console" and language not in VERBATIM
        for i, text in enumerate(block.splitlines())
    ]
    return [f"{path.name}:{line}: {text}" for line, text in lines if _is_command(text)]


def _is_command(text: str) -> bool:
    words = text.split()
    return bool(words) and (words[0].removeprefix("$") in PROGRAMS or words[0] == "$" or bool(SCRIPT.match(words[0])))


def _code(path: Path) -> Iterator[tuple[str, int, str]]:
    """(language, first line, text) of each block of code."""
    for token in MarkdownIt().parse(path.read_text()):
        if token.type in {"fence", "code_block"} and token.map:
            fenced = token.type == "fence"
            yield token.info.strip() if fenced else "", token.map[0] + 1 + fenced, token.content


def _typed(document: str, first: int, block: str) -> Iterator[Command]:
    lines = block.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = start
        while lines[last].endswith("\\"):
            last += 1
        text = "\n".join([lines[start][2:], *lines[start + 1 : last + 1]])
        shown = "\n".join(lines[last + 1 : end])
        yield Command(document=document, line=first + start, text=text, shown=shown)


def differences(shown: str, real: str) -> Sequence[str]:
    """Lines of a document's output that the real one lacks; numbers, ids and `...` stand for any."""
    told = _shape(real)
    return [line for line in shown.splitlines() if line.strip(" .") and not _found(line, told)]


def _found(line: str, told: str) -> bool:
    parts = [part.strip() for part in _shape(line).split("...") if part.strip()]
    return any(all(part in one for part in parts) for one in told.splitlines())


def _shape(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"osai_sk_\w+|osai1\.[\w.-]+|\b[0-9a-f]{8,}\b", "X", text)
    text = re.sub(r"(https?://)?[\w.-]+\.(example\.org|\d+)(:\d+)?|127\.0\.0\.1:\d+", "X", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"\d+(\.\d+)?", "0", text))
