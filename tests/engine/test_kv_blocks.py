import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.core.errors import InternalError, ResourceExhaustedError
from osai.node.engine.kv_blocks import BlockPool, FreeRuns

KEYS = [(0, "", bytes([i]) * 16) for i in range(9)]


def test_tables_get_runs_where_there_are_any() -> None:
    pool = BlockPool(10)
    first = pool.take(3, 0)
    assert first == [0, 1, 2]
    assert pool.take(1, 0) == [3]
    third = pool.take(3, 0)
    assert third == [4, 5, 6]
    pool.give(first)
    assert pool.take(2, 0) == [0, 1], "the short run that is long enough, not the long one"
    assert pool.take(1, 0, after=7) == [7], "behind the last block, if that can be"
    assert pool.take(3, 0) == [8, 9, 2], "in pieces if it must be, the longest first"
    assert pool.num_free == 0


def test_too_few_are_refused_and_nothing_changes() -> None:
    pool = BlockPool(4)
    pool.take(2, 0)
    with pytest.raises(ResourceExhaustedError, match="3 KV blocks are wanted, and 2 are free"):
        pool.take(3, 0)
    assert pool.num_free == 2


def test_a_registered_block_is_shared_and_never_written() -> None:
    pool = BlockPool(4)
    (block,) = pool.take(1, 0)
    assert pool.is_writable(block)
    with pytest.raises(InternalError, match="not known to hold"):
        pool.share(block)
    pool.register(block, KEYS[0])
    assert not pool.is_writable(block)
    pool.share(block)
    pool.give([block])
    assert (pool.num_free, pool.num_holders(block), pool.find(KEYS[0])) == (3, 1, block)
    pool.withdraw(block)
    assert pool.is_writable(block)
    assert pool.find(KEYS[0]) is None


def test_the_second_block_of_the_same_tokens_stays_its_sessions_own() -> None:
    pool = BlockPool(4)
    first, second = pool.take(2, 0)
    pool.register(first, KEYS[0])
    pool.register(second, KEYS[0])
    pool.register(first, KEYS[1])
    assert pool.find(KEYS[0]) == first
    assert pool.find(KEYS[1]) is None
    assert pool.is_writable(second)


def test_the_least_recently_used_is_forgotten_first() -> None:
    pool = BlockPool(4)
    blocks = pool.take(4, 0)
    for block, key in zip(blocks, KEYS, strict=False):
        pool.register(block, key)
    pool.give([3, 2, 1, 0])
    assert (pool.num_free, pool.num_cached) == (4, 4)
    pool.share(3)  # used again: 2 is the oldest now
    pool.give([3])
    assert pool.take(2, 0) == [1, 2]
    assert [pool.find(key) for key in KEYS[:4]] == [0, None, None, 3]
    pool.share(0)
    assert pool.num_free == 1
    assert pool.take(1, 0) == [3]
    assert pool.num_free == 0


def test_free_blocks_go_before_known_ones() -> None:
    pool = BlockPool(3)
    first, second = pool.take(2, 0)
    pool.register(first, KEYS[0])
    pool.give([first, second])
    assert pool.take(2, 0) == [1, 2]
    assert pool.find(KEYS[0]) == 0
    assert pool.take(1, 0) == [0]
    assert pool.find(KEYS[0]) is None


def test_held_blocks_are_counted_by_group() -> None:
    pool = BlockPool(5, num_groups=2)
    first, second = pool.take(2, 0), pool.take(1, 1)
    pool.register(second[0], (1, "", b"x" * 16))
    pool.share(second[0])
    assert (pool.num_held(0), pool.num_held(1)) == (2, 1)
    pool.give(first + second)
    assert (pool.num_held(0), pool.num_held(1)) == (0, 1)
    pool.give(second)
    assert pool.take(5, 0) == [0, 1, 2, 3, 4], "any group may have any block"
    assert (pool.num_held(0), pool.num_held(1)) == (5, 0)


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
