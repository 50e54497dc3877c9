"""A document that is made of the code: written, or compared with what it would be."""

import sys
from collections.abc import Sequence
from pathlib import Path


def write_or_check(file: Path, made: str, command: str, arguments: Sequence[str]) -> int:
    """Write a document, or say with `--check` whether it is current; the exit status.

    Args:
        file: the document, in docs/.
        made: what it must be.
        command: makes it.
        arguments: of that command.
    """
    name = f"docs/{file.name}"
    if arguments == ["--check"]:
        if file.exists() and file.read_text() == made:
            print(f"{name} is current")
            return 0
        print(f"{name} is stale: run {command}", file=sys.stderr)
        return 1
    if arguments:
        print(f"usage: {command} [--check]", file=sys.stderr)
        return 2
    file.write_text(made)
    return 0
