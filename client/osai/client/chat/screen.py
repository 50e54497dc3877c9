"""An answer on a terminal: its text as it streams, and beside it a passing note that leaves no trace."""

from collections.abc import Callable
from typing import TextIO

from prompt_toolkit.utils import get_cwidth

from osai.client.terminal import harmless

SAVE, RESTORE, ERASE = "\x1b7", "\x1b8", "\x1b[K"  # the cursor's place; from there to the end of its line
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
TAB_CELLS = 8


class Screen:
    """Writes to a terminal.

    A note never reaches past the line that the text has come to, so that it can be taken back.

    Args:
        out: the terminal.
        num_columns: how wide it is just now.
    """

    def __init__(self, out: TextIO, num_columns: Callable[[], int]) -> None:
        self._out = out
        self._num_columns = num_columns
        self._column = 0  # where the text has come to; that of a full line, not of the next one's beginning
        self._noted = False

    def text(self, text: str) -> None:
        """Go on with the text; a note is taken back."""
        text = harmless(text)
        self._write(self._unnoted() + text)
        for character in text:
            self._advance(character)

    def note(self, *wordings: str) -> None:
        """Show the first wording that fits after the text; nothing if none does."""
        room = self._num_columns() - self._column - 2  # a space before it, and a cell that stays free
        fitting = (
            f"{SAVE} {DIM}{words}{PLAIN}{RESTORE}" for words in map(harmless, wordings) if get_cwidth(words) <= room
        )
        shown = next(fitting, "")
        self._write(self._unnoted() + shown)
        self._noted = bool(shown)

    def line(self, words: str) -> None:
        """A quiet line of its own."""
        self.end()
        self._write(f"{DIM}{harmless(words)}{PLAIN}\n")

    def end(self) -> None:
        """End the line that the text has come to."""
        self._write(self._unnoted() + ("\n" if self._column else ""))
        self._column = 0

    def _unnoted(self) -> str:
        noted, self._noted = self._noted, False
        return ERASE if noted else ""

    def _advance(self, character: str) -> None:
        if character == "\n":
            self._column = 0
            return
        num_columns = max(1, self._num_columns())
        cells = TAB_CELLS - self._column % TAB_CELLS if character == "\t" else max(0, get_cwidth(character))
        self._column = self._column + cells if self._column + cells <= num_columns else cells

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
