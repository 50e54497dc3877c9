"""The journal against a dictionary that forgets nothing by itself."""

from collections import OrderedDict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from osai.core.frames import FrameShape
from osai.node.stages.journal import Journal
from osai.proto import common_pb2

SHAPE = FrameShape(dtype=common_pb2.DTYPE_BFLOAT16, hidden_size=4)
OTHER = FrameShape(dtype=common_pb2.DTYPE_FLOAT32, hidden_size=4)
ROW_BYTES = {SHAPE: 8, OTHER: 16}
SESSIONS = st.integers(1, 4)
POSITIONS = st.integers(0, 40)


def row(serial: int, shape: FrameShape = SHAPE) -> bytes:
    """A row that no other one equals."""
    return serial.to_bytes(ROW_BYTES[shape], "big")


def fill(journal: Journal, session: int, start: int, end: int) -> None:
    journal.append(session, start, end - start, memoryview(b"".join(map(row, range(start, end)))), SHAPE)


def test_rows_are_read_across_appends() -> None:
    journal = Journal(10_000)
    for start, end in ((3, 5), (5, 6), (6, 10)):
        fill(journal, 1, start, end)
    assert journal.read(1, 4, 9) == b"".join(map(row, range(4, 9)))
    assert journal.shape(1) == SHAPE
    assert [journal.begin(1, position) for position in (2, 3, 7, 10, 11)] == [2, 3, 3, 3, 11]
    assert [journal.read(1, *range_) for range_ in ((2, 4), (8, 11), (5, 5), (6, 5))] == [None] * 4
    assert (journal.read(2, 0, 1), journal.shape(2), journal.begin(2, 7)) == (None, None, 7)


def test_a_journal_is_cut_within_what_came_at_once() -> None:
    journal = Journal(10_000)
    fill(journal, 1, 0, 5)
    fill(journal, 1, 5, 10)
    assert journal.read(1, 2, 8) == b"".join(map(row, range(2, 8)))
    journal.cut(1, 8)
    assert (journal.num_bytes, journal.begin(1, 8), journal.read(1, 7, 9)) == (8 * 8, 0, None)
    journal.cut(1, 4)
    assert journal.num_bytes == 4 * 8
    fill(journal, 1, 4, 6)
    assert journal.read(1, 0, 6) == b"".join(map(row, range(6)))


def test_the_session_that_was_unused_for_longest_goes_entirely() -> None:
    journal = Journal(10 * 8)
    fill(journal, 1, 0, 5)
    fill(journal, 2, 0, 5)
    assert journal.read(1, 0, 1) is not None  # used
    fill(journal, 3, 0, 1)
    assert [journal.begin(session, 5) for session in (1, 2)] == [0, 5]
    assert journal.begin(3, 1) == 0
    assert journal.num_bytes == 6 * 8


def test_a_session_larger_than_the_budget_is_not_kept_and_begins_anew() -> None:
    journal = Journal(3 * 8)
    fill(journal, 1, 0, 4)
    assert (journal.num_bytes, journal.begin(1, 4)) == (0, 4)
    fill(journal, 1, 4, 6)
    assert journal.begin(1, 6) == 4


def test_a_journal_without_budget_keeps_nothing() -> None:
    journal = Journal(0)
    fill(journal, 1, 0, 1)
    assert (journal.num_bytes, journal.begin(1, 1)) == (0, 1)


class JournalMachine(RuleBasedStateMachine):
    """Each session's rows by position, and the sessions from the longest unused on."""

    @initialize(max_bytes=st.sampled_from([0, 7, 64, 400, 100_000]))
    def begin(self, max_bytes: int) -> None:
        self.journal, self.max_bytes, self.serial = Journal(max_bytes), max_bytes, 0
        self.rows: OrderedDict[int, dict[int, bytes]] = OrderedDict()
        self.shapes: dict[int, FrameShape] = {}

    @property
    def num_bytes(self) -> int:
        return sum(len(data) for rows in self.rows.values() for data in rows.values())

    @rule(session=SESSIONS, gap=st.sampled_from([0, 0, 0, 0, -1, 2]), count=st.integers(1, 6), other=st.booleans())
    def append(self, session: int, gap: int, count: int, other: bool) -> None:
        shape = OTHER if other and session == 4 else SHAPE
        known = self.rows.get(session)
        next_row = max(known) + 1 if known else 0
        position = max(0, next_row + gap)
        data = [row(self.serial + i, shape) for i in range(count)]
        self.serial += count
        if not known or position != next_row or shape != self.shapes[session]:
            self.rows.pop(session, None)
            known = self.rows[session] = {}
        known.update({position + i: each for i, each in enumerate(data)})
        self.shapes[session] = shape
        self.rows.move_to_end(session)
        while self.num_bytes > self.max_bytes:
            self.rows.popitem(last=False)
        source = bytearray(b"".join(data))
        self.journal.append(session, position, count, memoryview(source), shape)
        source[:] = bytes(len(source))  # what was given may be written over

    @rule(session=SESSIONS, position=POSITIONS)
    def cut(self, session: int, position: int) -> None:
        kept = {at: data for at, data in self.rows.get(session, {}).items() if at < position}
        if kept:
            self.rows[session] = kept
        else:
            self.rows.pop(session, None)
        self.journal.cut(session, position)

    @rule(session=SESSIONS)
    def drop(self, session: int) -> None:
        self.rows.pop(session, None)
        self.journal.drop(session)

    @rule(session=SESSIONS, start=POSITIONS, count=st.integers(0, 12))
    def read(self, session: int, start: int, count: int) -> None:
        rows = self.rows.get(session, {})
        wanted = [rows.get(position) for position in range(start, start + count)]
        found = [data for data in wanted if data is not None]
        whole = count > 0 and len(found) == count
        assert self.journal.read(session, start, start + count) == (b"".join(found) if whole else None)
        if whole:
            self.rows.move_to_end(session)

    @rule(session=SESSIONS, position=POSITIONS)
    def ask_for_the_begin(self, session: int, position: int) -> None:
        begin = self.journal.begin(session, position)
        rows = self.rows.get(session, {})
        assert all(at in rows for at in range(begin, position))
        assert begin == position or begin - 1 not in rows
        assert self.journal.shape(session) == (self.shapes[session] if rows else None)

    @invariant()
    def everything_is_counted_and_the_budget_holds(self) -> None:
        if hasattr(self, "journal"):
            assert self.journal.num_bytes == self.num_bytes <= self.max_bytes


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=150, stateful_step_count=30)
