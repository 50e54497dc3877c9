"""KV accounts under any order of events, beside a memory that says what every slot holds."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from osai.core.errors import InvalidRequestError, ResourceExhaustedError
from osai.core.prefix import BLOCK_TOKENS, block_hashes
from osai.node.engine.api import Rows, SessionSpec
from osai.node.engine.block_table import BlockTable
from osai.node.engine.kv_ledger import KVLedger
from osai.node.engine.kv_span import SessionKV, SpanKV
from osai.node.engine.windows import Window

MAX_STEP_ROWS = 40
WINDOWS = [
    (Window(),),
    (Window("sliding", 20),),
    (Window(), Window("sliding", 7), Window("sliding", 7)),
    (Window("chunked", 24), Window("sliding", 33), Window()),
]


@dataclass
class Running:
    """A session as its caller sees it."""

    spec: SessionSpec
    kv: SessionKV
    tokens: list[int]  # all that it would ever have
    position: int  # of the next row to submit
    waiting: list[Rows] = field(default_factory=list)


@dataclass
class Part:
    """Rows that were taken into a step."""

    session: Running
    rows: Rows
    num_good: int

    @property
    def kv(self) -> SessionKV:
        return self.session.kv


def _rows(session: int, position: int, count: int) -> Rows:
    return Rows(session=session, epoch=0, position=position, count=count)


class KVMachine(RuleBasedStateMachine):
    """Opens, rows, cuts, closes, failures, before, during and after steps; late writes of stale rows among them."""

    @initialize(windows=st.sampled_from(WINDOWS), num_blocks=st.integers(24, 60))
    def begin(self, windows: tuple[Window, ...], num_blocks: int) -> None:
        self.windows = windows
        self.ledger = KVLedger(windows, num_blocks, BLOCK_TOKENS, MAX_STEP_ROWS)
        self.kv = SpanKV(self.ledger, scratch_block=num_blocks)
        self.num_free = self.ledger.num_free
        self.memory: dict[int, int] = {}  # slot -> hash of all tokens up to the one whose KV it is
        self.sessions: list[Running] = []
        self.parts: list[Part] = []  # of the step in hand
        self.tables: list[tuple[BlockTable, ...]] = []
        self.number = 0

    def _choose(self, data: Any) -> Running:  # noqa: ANN401
        return data.draw(st.sampled_from(self.sessions))  # type: ignore[no-any-return]

    @rule(branch=st.integers(0, 3), at=st.sampled_from([100, 40, 16, 0]), prompt=st.integers(1, 110),
          more=st.integers(1, 70), scope=st.sampled_from(["", "", "", "other"]),
          back=st.sampled_from([0, 0, 0, 1, 2, 99]))  # fmt: skip
    def open(self, branch: int, at: int, prompt: int, more: int, scope: str, back: int) -> None:
        self.number += 1
        tokens = [1] * min(at, prompt) + [branch] * (prompt - min(at, prompt)) + [self.number] * more
        spec = SessionSpec(
            session=self.number,
            span="span",
            num_prompt_tokens=prompt,
            max_total_tokens=prompt + more,
            block_hashes=block_hashes(tokens[: prompt - 1]),
            scope=scope,
        )
        before = self.ledger.num_free
        try:
            kv = self.kv.open(spec)
        except (ResourceExhaustedError, InvalidRequestError):
            assert self.ledger.num_free == before
            return
        known = kv.blocks.num_computed
        assert known % BLOCK_TOKENS == 0
        assert known < prompt
        session = Running(spec, kv, tokens, known)
        self.sessions.append(session)
        if back and known:  # another stage knows less
            self._cut(session, max(0, known - back * BLOCK_TOKENS))

    def _cut(self, session: Running, position: int) -> None:
        self._mark(session, position)
        was_begun = position < session.kv.blocks.num_begun
        try:
            self.kv.cut(session.kv, position)
        except InvalidRequestError:
            assert position > 0, "a session can be cut to 0"
            self._close(session, has_failed=False)
            return
        except ResourceExhaustedError:
            self._close(session, has_failed=False)
            return
        session.waiting = [
            _rows(r.session, r.position, min(r.count, position - r.position))
            for r in session.waiting
            if r.position < position
        ]
        session.position = position
        if was_begun:  # what comes now need not be what came before
            self.number += 1
            session.tokens[position:] = [1000 + self.number] * (len(session.tokens) - position)

    def _mark(self, session: Running, position: int) -> None:
        for part in self.parts:
            if part.session is session:
                part.num_good = min(part.num_good, max(0, position - part.rows.position))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), count=st.integers(1, 60))
    def submit(self, data: st.DataObject, count: int) -> None:
        session = self._choose(data)
        count = min(count, len(session.tokens) - session.position)
        if count:
            session.waiting.append(_rows(session.spec.session, session.position, count))
            session.position += count

    @precondition(lambda self: self.sessions and not self.parts)
    @rule(data=st.data())
    def everybody_runs(self, data: st.DataObject) -> None:
        for session in self.sessions:
            count = min(MAX_STEP_ROWS, len(session.tokens) - session.position)
            if count and not session.waiting:
                session.waiting.append(_rows(session.spec.session, session.position, count))
                session.position += count
        self.begin_step(data)
        self.end_step(data)

    @precondition(lambda self: any(s.waiting for s in self.sessions) and not self.parts)
    @rule(data=st.data())
    def begin_step(self, data: st.DataObject) -> None:
        budget = MAX_STEP_ROWS
        for session in data.draw(st.permutations([s for s in self.sessions if s.waiting])):
            rows = session.waiting.pop(0)
            count = 1 if rows.count == 1 else min(budget, rows.count)
            budget -= count if rows.count > 1 else 0
            if count < rows.count:
                session.waiting.insert(0, _rows(rows.session, rows.position + count, rows.count - count))
            if count:
                self.parts.append(Part(session, _rows(rows.session, rows.position, count), count))
        for part in list(self.parts):  # between the moments when rows are taken, and when the thread looks at them
            happens = data.draw(st.sampled_from([*[""] * 8, "close", "cut"]))
            if happens == "close":
                self._close(part.session, has_failed=False)
            elif happens == "cut":
                self._cut(part.session, part.rows.position + data.draw(st.integers(0, part.rows.count - 1)))
        step = self.kv.begin_step(self.parts)
        self.tables = step.tables
        for source, target in step.copies:
            for offset in range(BLOCK_TOKENS):
                self.memory[target * BLOCK_TOKENS + offset] = self.memory.get(source * BLOCK_TOKENS + offset, 0)
        self._write()
        self._check_reads()

    def _write(self) -> None:
        for part, tables in zip(self.parts, self.tables, strict=True):
            end = part.rows.position + part.num_good
            for table in tables:
                slots = table.slots(part.rows.position, part.rows.position + part.rows.count).tolist()
                assert len(slots) == part.rows.count, "every row goes somewhere, wanted or not"
                for position, slot in enumerate(slots, part.rows.position):
                    self.memory[slot] = self._content(part.session, position) if position < end else -1

    def _content(self, session: Running, position: int) -> int:
        return hash((session.spec.scope, *session.tokens[: position + 1]))

    def _check_reads(self) -> None:
        """Every row finds what it sees."""
        for part, tables in zip(self.parts, self.tables, strict=True):
            for window, table in zip(self.windows, tables, strict=True):
                first, end = window.first_key(part.rows.position), part.rows.position + part.num_good
                assert not part.num_good or table.first <= first
                want = [self._content(part.session, position) for position in range(first, end)]
                assert [self.memory.get(slot) for slot in table.slots(first, end).tolist()] == want or not part.num_good

    @precondition(lambda self: self.parts)
    @rule(data=st.data())
    def end_step(self, data: st.DataObject) -> None:
        self._write()  # as late as can be: whoever got the blocks of stale rows meanwhile has not written yet
        failed = {i for i in range(len(self.parts)) if data.draw(st.sampled_from([*[False] * 9, True]))}
        self.kv.end_step(self.parts, failed)
        parts, self.parts = self.parts, []
        for i in failed:
            if parts[i].num_good == parts[i].rows.count:
                self._close(parts[i].session, has_failed=True)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), share=st.floats(0, 1))
    def cut(self, data: st.DataObject, share: float) -> None:
        session = self._choose(data)
        if (position := int(session.position * share)) < session.position:
            self._cut(session, position)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), knows_tokens=st.booleans())
    def close(self, data: st.DataObject, knows_tokens: bool) -> None:
        self._close(self._choose(data), has_failed=False, knows_tokens=knows_tokens)

    def _close(self, session: Running, *, has_failed: bool, knows_tokens: bool = True) -> None:
        if session not in self.sessions:
            return
        self._mark(session, 0)
        self.sessions.remove(session)
        hashes = block_hashes(session.tokens[: session.position]) if knows_tokens else ()
        self.kv.close(session.kv, hashes, has_failed=has_failed)

    @invariant()
    def known_blocks_hold_what_they_should(self) -> None:
        if not hasattr(self, "kv"):
            return
        held = {}
        for session in self.sessions:
            for i, digest in enumerate(block_hashes(session.tokens)):
                last = (i + 1) * BLOCK_TOKENS
                held[session.spec.scope, digest] = [self._content(session, p) for p in range(last - BLOCK_TOKENS, last)]
        for (_, scope, digest), block in self.ledger.pool._blocks.items():
            if want := held.get((scope, digest)):
                slots = range(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS)
                assert [self.memory.get(slot) for slot in slots] == want

    @invariant()
    def accounts_balance(self) -> None:
        if not hasattr(self, "kv"):
            return
        pool = self.ledger.pool
        tables = [group for session in self.sessions for group in session.kv.blocks.groups]
        held: dict[int, int] = {}
        for table in tables:
            assert len(set(table.blocks)) == len(table.blocks)
            for block in table.blocks:
                held[block] = held.get(block, 0) + 1
        assert {b: n for b, n in enumerate(pool._holders) if n} == held
        assert len(held) + pool.num_cached + len(pool._free) == pool.num_blocks
        assert pool.num_free == pool.num_cached + len(pool._free)
        assert all(n == 1 or not pool.is_writable(block) for block, n in held.items())
        assert 0 <= self.ledger.num_free <= pool.num_free
        if not self.parts:
            assert all(len(table.blocks) <= table.limit for table in tables)

    def teardown(self) -> None:
        if not hasattr(self, "kv"):
            return
        for session in list(self.sessions):
            self._close(session, has_failed=False)
        self.kv.end_step(self.parts, ())
        assert self.ledger.num_free == self.num_free
        assert self.ledger.pool.num_free == self.ledger.pool.num_blocks


TestKV = KVMachine.TestCase
TestKV.settings = settings(max_examples=75, stateful_step_count=50)
