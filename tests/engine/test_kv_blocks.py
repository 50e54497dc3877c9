import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from osai.core.errors import InvalidRequestError, ResourceExhaustedError, UnknownSessionError
from osai.node.engine.kv_blocks import BlockPool, FreeRuns


def test_sessions_get_runs_where_there_are_any() -> None:
    pool = BlockPool(10, 16)
    assert pool.reserve(1, 33) == (0, 1, 2)
    assert pool.reserve(2, 16) == (3,)
    assert pool.reserve(3, 40) == (4, 5, 6)
    pool.release(1)
    assert pool.reserve(4, 20) == (0, 1), "the short run that is long enough, not the long one"
    assert pool.reserve(3, 64) == (4, 5, 6, 7), "a table grows behind its last block"
    assert pool.reserve(5, 48) == (8, 9, 2), "in pieces if it must be, the longest first"
    assert pool.num_free == 0


def test_too_little_room_is_refused_with_figures_and_changes_nothing() -> None:
    pool = BlockPool(4, 16)
    pool.reserve(1, 16)
    with pytest.raises(ResourceExhaustedError, match=r"64 tokens need 4 more KV blocks of 16, and 3 of 4 are free"):
        pool.reserve(2, 64)
    with pytest.raises(ResourceExhaustedError, match="65 tokens need 4 more"):
        pool.reserve(1, 65)
    assert pool.num_free == 3
    assert pool.table(1) == (0,)
    assert pool.sessions == {1}


def test_a_cut_frees_whole_blocks_only() -> None:
    pool = BlockPool(8, 16)
    pool.reserve(1, 64)
    assert pool.cut(1, 17) == 17
    assert pool.table(1) == (0, 1)
    assert pool.cut(1, 0) == 0
    assert pool.num_free == 8
    with pytest.raises(InvalidRequestError, match="can't be cut to 1"):
        pool.cut(1, 1)


def test_a_shared_block_is_never_written_again() -> None:
    pool = BlockPool(8, 16)
    pool.reserve(1, 64)
    assert pool.fork(1, 2, 40) == 32, "only whole blocks are shared"
    assert pool.table(2) == (0, 1)
    assert pool.cut(2, 20) == 16, "block 1 is also session 1's: it is let go of"
    assert pool.table(2) == (0,)
    assert pool.cut(1, 20) == 20, "block 1 is session 1's alone by now"
    pool.release(1)
    assert pool.num_free == 7
    pool.release(2)
    assert pool.num_free == 8


def test_unknown_and_known_sessions_are_told_apart() -> None:
    pool = BlockPool(2, 16)
    pool.release(7)
    with pytest.raises(UnknownSessionError, match="session 7"):
        pool.cut(7, 0)
    with pytest.raises(UnknownSessionError, match="session 7"):
        pool.fork(7, 8, 0)
    pool.reserve(7, 1)
    pool.reserve(8, 1)
    with pytest.raises(InvalidRequestError, match="session 8 holds KV blocks already"):
        pool.fork(7, 8, 0)
    with pytest.raises(InvalidRequestError, match="2 can't be shared"):
        pool.fork(7, 9, 32)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_free_runs_are_a_set_of_blocks(steps: list[tuple[bool, int]]) -> None:
    runs = FreeRuns(24)
    taken: list[int] = []
    for take, count in steps:
        if take and count <= len(runs):
            blocks = runs.take(count, after=None)
            assert len(blocks) == count
            assert not set(blocks) & set(taken)
            taken += blocks
        elif not take:
            given_back, taken = taken[:count], taken[count:]
            runs.give(given_back)
        assert len(runs) + len(taken) == 24
    runs.give(taken)
    assert runs.take(24, after=None) == list(range(24)), "all merged into one run again"


class PoolMachine(RuleBasedStateMachine):
    """Opens, growth, cuts, forks and releases in any order; a second, plain account is kept beside the pool's."""

    sessions: "Bundle[int]" = Bundle("sessions")

    @initialize(num_blocks=st.integers(1, 40), block_size=st.integers(1, 5))
    def begin(self, num_blocks: int, block_size: int) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.tables: dict[int, tuple[int, ...]] = {}
        self.next_session = 0

    def _new(self) -> int:
        self.next_session += 1
        return self.next_session

    @rule(target=sessions, num_tokens=st.integers(0, 60))
    def open(self, num_tokens: int) -> int:
        session = self._new()
        self._reserve(session, num_tokens)
        return session

    @rule(session=sessions, num_tokens=st.integers(0, 90))
    def grow(self, session: int, num_tokens: int) -> None:
        self._reserve(session, num_tokens)

    def _reserve(self, session: int, num_tokens: int) -> None:
        before = self.tables.get(session, ())
        needed = max(0, -(-num_tokens // self.pool.block_size) - len(before))
        if needed > self.pool.num_free:
            with pytest.raises(ResourceExhaustedError):
                self.pool.reserve(session, num_tokens)
            if session not in self.tables:
                self.pool.reserve(session, 0)
                self.tables[session] = ()
            return
        table = self.pool.reserve(session, num_tokens)
        assert table[: len(before)] == before
        assert len(table) == len(before) + needed
        assert not set(table[len(before) :]) & {b for other in self.tables.values() for b in other}
        self.tables[session] = table

    @rule(session=sessions, share=st.floats(0, 1))
    def cut(self, session: int, share: float) -> None:
        size, table = self.pool.block_size, self.tables[session]
        position = int(share * len(table) * size)
        kept = self.pool.cut(session, position)
        assert position - size < kept <= position
        left = self.pool.table(session)
        assert left == table[: -(-kept // size)]
        self.tables[session] = left
        if kept % size:
            assert sum(left[-1] in other for other in self.tables.values()) == 1, "it would be written while shared"

    @rule(target=sessions, session=sessions, share=st.floats(0, 1))
    def fork(self, session: int, share: float) -> int:
        table, child = self.tables[session], self._new()
        num_tokens = int(share * len(table) * self.pool.block_size)
        shared = self.pool.fork(session, child, num_tokens)
        assert shared == num_tokens // self.pool.block_size * self.pool.block_size
        self.tables[child] = table[: shared // self.pool.block_size]
        return child

    @rule(session=consumes(sessions))
    def release(self, session: int) -> None:
        self.pool.release(session)
        del self.tables[session]

    @invariant()
    def accounts_balance(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert self.pool.sessions == set(self.tables)
        for session, table in self.tables.items():
            assert self.pool.table(session) == table
            assert len(set(table)) == len(table)
        held = {block for table in self.tables.values() for block in table}
        assert self.pool.num_free == self.pool.num_blocks - len(held) == len(self.pool._free)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
