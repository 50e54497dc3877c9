"""Block hashes: equal beginnings and no others have equal hashes, in chains, on every machine."""

from hypothesis import given
from hypothesis import strategies as st

from osai.core.prefix import BLOCK_TOKENS, HASH_BYTES, block_hashes, num_shareable_blocks, shareable_hashes

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=5 * BLOCK_TOKENS)
FEW = st.lists(st.integers(0, 1), max_size=4 * BLOCK_TOKENS)  # so that beginnings are often equal


def num_common_blocks(one: list[int], other: list[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count // BLOCK_TOKENS


@given(tokens=TOKENS)
def test_each_full_block_has_a_hash_and_no_two_are_equal(tokens: list[int]) -> None:
    hashes = block_hashes(tokens)
    assert len(hashes) == len(tokens) // BLOCK_TOKENS
    assert all(len(each) == HASH_BYTES for each in hashes)
    assert len(set(hashes)) == len(hashes)


@given(beginning=TOKENS, one=FEW, other=FEW)
def test_hashes_are_equal_exactly_as_far_as_the_beginnings_are(
    beginning: list[int], one: list[int], other: list[int]
) -> None:
    first, second = [*beginning, *one], [*beginning, *other]
    num_common = num_common_blocks(first, second)
    a, b = block_hashes(first), block_hashes(second)
    assert a[:num_common] == b[:num_common]
    assert not set(a[num_common:]) & set(b[num_common:])  # nothing behind the first difference is equal again


@given(tokens=TOKENS, num_known=st.integers(0, 5))
def test_a_chain_goes_on_from_what_is_known_of_it(tokens: list[int], num_known: int) -> None:
    hashes = block_hashes(tokens)
    assert block_hashes(tokens, hashes[:num_known]) == hashes


@given(prompt=TOKENS)
def test_one_row_of_a_prompt_is_always_left_to_run(prompt: list[int]) -> None:
    hashes = shareable_hashes(prompt)
    assert len(hashes) == num_shareable_blocks(len(prompt))
    assert hashes == block_hashes(prompt)[: len(hashes)]
    assert not prompt or len(hashes) * BLOCK_TOKENS < len(prompt) <= (len(hashes) + 1) * BLOCK_TOKENS


def test_hashes_do_not_depend_on_the_machine() -> None:
    """They used to be of the machine's own byte order: peers of two kinds shared nothing."""
    assert [each.hex() for each in block_hashes(range(2 * BLOCK_TOKENS))] == [
        "98c389645ab5c1191d8d6fa4013172aa",
        "0b2ee9ad541dd85fb849d009eeec2aa8",
    ]
