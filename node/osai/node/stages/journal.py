"""What a stage keeps of the rows that it has put out, so that a lost successor can be rebuilt from them. No I/O.

Rows are raw bytes here. Each session's are contiguous; over the budget, those of the sessions that were longest without
a new row, or a reader, go entirely: half of a journal rebuilds nothing.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field

from osai.core.frames import FrameShape

DEFAULT_BYTES = 2**28  # 32 sessions of 1,024 tokens, of hidden size 4096 in 16 bits


@dataclass(slots=True, eq=False)
class _Entry:
    """Rows [begin, end), `row_bytes` each.

    Attributes:
        segments: their bytes in order, as they came: one that grew would be copied again and again.
        starts: position of each segment's first row.
    """

    begin: int
    end: int
    shape: FrameShape
    row_bytes: int
    segments: list[bytes] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


class Journal:
    """The rows of any number of sessions, within one budget.

    Args:
        max_bytes: the budget; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # longest unused first
        self.num_bytes = 0

    def append(self, session: int, position: int, count: int, data: memoryview, shape: FrameShape) -> None:
        """Keep a copy of rows [position, position + count); rows that do not follow on begin the session's anew.

        Args:
            session: whose.
            position: of the first.
            count: at least 1.
            data: their bytes.
            shape: what a frame of them looks like.
        """
        entry = self._entries.get(session)
        if entry is None or position != entry.end or shape != entry.shape:
            self.drop(session)
            entry = self._entries[session] = _Entry(position, position, shape, len(data) // count)
        entry.segments.append(bytes(data))
        entry.starts.append(position)
        entry.end += count
        self.num_bytes += len(data)
        self._entries.move_to_end(session)
        while self.num_bytes > self._max_bytes:
            self.drop(next(iter(self._entries)))

    def begin(self, session: int, position: int) -> int:
        """From which row on everything before `position` is here; `position` itself if nothing is."""
        entry = self._entries.get(session)
        return min(entry.begin, position) if entry is not None and entry.end >= position else position

    def shape(self, session: int) -> FrameShape | None:
        """What a frame of a session's rows looks like; None if there are none."""
        entry = self._entries.get(session)
        return entry.shape if entry else None

    def read(self, session: int, start: int, end: int) -> bytes | None:
        """Rows [start, end), at least one; None where they are not all here."""
        entry = self._entries.get(session)
        if entry is None or not entry.begin <= start < end <= entry.end:
            return None
        self._entries.move_to_end(session)
        parts = []
        for i in range(bisect_right(entry.starts, start) - 1, bisect_left(entry.starts, end)):
            at = entry.starts[i]
            parts.append(entry.segments[i][max(start - at, 0) * entry.row_bytes : (end - at) * entry.row_bytes])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def cut(self, session: int, position: int) -> None:
        """Forget a session's rows from `position` on."""
        entry = self._entries.get(session)
        if entry is None or position >= entry.end:
            return
        if position <= entry.begin:
            self.drop(session)
            return
        while entry.starts[-1] >= position:
            entry.starts.pop()
            self.num_bytes -= len(entry.segments.pop())
        last = entry.segments[-1]
        entry.segments[-1] = last[: (position - entry.starts[-1]) * entry.row_bytes]
        self.num_bytes -= len(last) - len(entry.segments[-1])
        entry.end = position

    def drop(self, session: int) -> None:
        """Forget a session; an unknown one is no error."""
        entry = self._entries.pop(session, None)
        if entry is not None:
            self.num_bytes -= sum(len(segment) for segment in entry.segments)
