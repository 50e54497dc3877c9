"""Finding marks and JSON values in text that comes in pieces. Pure."""

from collections.abc import Callable, Sequence

from osai.coordinator.tool_calls.calls import MAX_CALL_CHARS, CallParser, ParsedCall, Piece, Read

_OPENING, _CLOSING = frozenset("{[("), frozenset("}])")
_PARTING = "; \n\t\r,"  # stands between one call and the next


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`, and is not all of it."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0


class BracketScanner:
    """Finds where the value ends that begins with the first bracket; brackets within quotes don't count.

    Each character is looked at once, however small the pieces are.
    """

    def __init__(self, quotes: str = '"') -> None:
        self._quotes = quotes
        self._quote = ""  # that is open
        self._escaped = False
        self._depth = 0
        self._num_seen = 0

    def end(self, text: str) -> int | None:
        """The index behind the value's last bracket; None while that has not come. `text` is all text so far."""
        while self._num_seen < len(text):
            ch = text[self._num_seen]
            self._num_seen += 1
            if self._quote:
                self._quote = "" if ch == self._quote and not self._escaped else self._quote
                self._escaped = ch == "\\" and not self._escaped
            elif ch in self._quotes:
                self._quote = ch
            elif ch in _OPENING:
                self._depth += 1
            elif ch in _CLOSING:
                self._depth -= 1
                if self._depth <= 0:
                    return self._num_seen
        return None


class MarkedParser:
    """Reads text in which each call, or list of calls, stands between two marks."""

    def __init__(self, opening: str, closing: str, read: Read) -> None:
        self._opening = opening
        self._closing = closing
        self._read = read
        self._held = ""
        self._inside = False
        self._num_searched = 0  # of what is held

    def add(self, text: str) -> list[Piece]:
        """As of CallParser."""
        self._held += text
        pieces: list[Piece] = []
        while self._take_block(pieces) if self._inside else self._take_text(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        """As of CallParser: the end may stand for the closing mark."""
        held, self._held = self._held, ""
        if not self._inside:
            return [held] if held else []
        self._inside = False
        return list(self._read(held[len(self._opening) :])) or [held]

    def _take_text(self, pieces: list[Piece]) -> bool:
        """Give what comes before an opening mark; whether that was found."""
        at = self._held.find(self._opening)
        cut = at if at >= 0 else len(self._held) - overlap(self._held, self._opening)
        if cut:
            pieces.append(self._held[:cut])
        self._held = self._held[cut:]
        self._inside, self._num_searched = at >= 0, len(self._opening)
        return self._inside

    def _take_block(self, pieces: list[Piece]) -> bool:
        """Give the calls before a closing mark; whether that was found."""
        at = self._held.find(self._closing, max(len(self._opening), self._num_searched - len(self._closing)))
        self._num_searched = len(self._held)
        if at < 0:
            if len(self._held) > MAX_CALL_CHARS:
                pieces.append(self._held)
                self._held, self._inside = "", False
            return False
        block, self._held = self._held[: at + len(self._closing)], self._held[at + len(self._closing) :]
        self._inside = False
        pieces.extend(self._read(block[len(self._opening) : at]) or [block])
        return True


class LeadingParser:
    """Reads text that is calls from its first character on, or none at all.

    Args:
        begins: whether a beginning is that of calls; None while that can't be told.
        quotes: around which brackets don't count.
        read: gives the calls of one bracketed value.
        after: marks that may stand behind the last value.
    """

    def __init__(
        self, begins: Callable[[str], bool | None], read: Read, *, quotes: str = '"', after: Sequence[str] = ()
    ) -> None:
        self._begins = begins
        self._read = read
        self._quotes = quotes
        self._after = after
        self._scanner = BracketScanner(quotes)
        self._held = ""
        self._plain: bool | None = None

    def add(self, text: str) -> list[Piece]:
        """As of CallParser."""
        if self._plain:
            return [text] if text else []
        self._held += text
        if self._plain is None:
            begins = self._begins(self._held)
            self._plain = None if begins is None else not begins
        if self._plain is None:
            return []
        return self._flush() if self._plain or len(self._held) > MAX_CALL_CHARS else self._take_values()

    def finish(self) -> list[Piece]:
        """As of CallParser."""
        return self._flush()

    def _take_values(self) -> list[Piece]:
        pieces: list[Piece] = []
        while (end := self._scanner.end(self._held)) is not None:
            calls = self._read(self._held[:end].lstrip(_PARTING))
            if not calls:
                return pieces + self._flush()
            pieces.extend(calls)
            self._held = self._held[end:]
            self._scanner = BracketScanner(self._quotes)
        return pieces

    def _flush(self) -> list[Piece]:
        held, self._held = self._held, ""
        rest = held if self._plain is not False else held.strip(_PARTING)
        self._plain = True
        return [held] if rest and rest not in self._after else []


class TidyParser:
    """Another parser without the blanks around its calls: a family's format has them, and they are no text."""

    def __init__(self, inner: CallParser) -> None:
        self._inner = inner
        self._blanks = ""
        self._called = False

    def add(self, text: str) -> list[Piece]:
        """As of CallParser."""
        return self._tidy(self._inner.add(text))

    def finish(self) -> list[Piece]:
        """As of CallParser."""
        pieces = self._tidy(self._inner.finish())
        return pieces if self._called or not self._blanks else [*pieces, self._blanks]

    def _tidy(self, pieces: list[Piece]) -> list[Piece]:
        tidied: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, ParsedCall):
                self._blanks, self._called = "", True
                tidied.append(piece)
                continue
            text = self._blanks + piece
            kept = text.rstrip()
            self._blanks = text[len(kept) :]
            if kept:
                tidied.append(kept)
        return tidied
