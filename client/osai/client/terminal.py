"""What goes to a terminal: text of peers made harmless, tables that lose nothing."""

import re
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_OF_A_PIPE = 240  # characters; wide enough that no column wraps where nobody looks at it
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 but tab and newline, DEL, C1


def harmless(text: str) -> str:
    """Text of a peer without control characters, which could drive a terminal; newlines and tabs stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def for_stdout(text: str) -> str:
    """Text as it may be written to standard output: exact into a file or a pipe, harmless on a terminal."""
    return harmless(text) if sys.stdout.isatty() else text


def print_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table to standard output."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))  # Text: no markup of a peer's is interpreted
    console = Console()
    Console(width=None if console.is_terminal else WIDTH_OF_A_PIPE).print(table)
