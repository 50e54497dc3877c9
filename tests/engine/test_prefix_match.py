from hypothesis import given
from hypothesis import strategies as st

from osai.node.engine.prefix_match import longest_match
from osai.node.engine.windows import Window


def match(windows: list[Window], known: list[str]) -> int:
    """`known`: of each group, "x" for each block that is there."""
    return longest_match(windows, 4, len(known[0]), lambda group, i: known[group][i] == "x")


def test_all_before_must_be_known_to_layers_that_see_all() -> None:
    assert match([Window()], ["xxx.x"]) == 3
    assert match([Window(), Window()], ["xxx", "xx."]) == 2
    assert match([Window()], [".xx"]) == 0
    assert match([Window()], [""]) == 0


def test_what_a_window_shows_is_enough_for_layers_that_have_one() -> None:
    assert match([Window("sliding", 5)], ["..x"]) == 3
    assert match([Window("sliding", 6)], ["..x"]) == 0
    assert match([Window("sliding", 6)], ["xx.x"]) == 2
    assert match([Window("chunked", 8)], ["..."]) == 2, "a chunk begins there, and sees nothing before it"
    assert match([Window("chunked", 8)], ["..x"]) == 3
    assert match([Window(), Window("sliding", 2)], ["xxx..", ".x..x"]) == 2


@given(st.lists(st.sampled_from([Window(), Window("sliding", 6), Window("chunked", 12)]), min_size=1), st.data())
def test_it_is_the_longest(windows: list[Window], data: st.DataObject) -> None:
    limit = data.draw(st.integers(0, 12))
    known = [data.draw(st.lists(st.booleans(), min_size=limit, max_size=limit)) for _ in windows]

    def fits(count: int) -> bool:
        firsts = [window.first_key(count * 4) // 4 for window in windows]
        return all(all(blocks[first:count]) for blocks, first in zip(known, firsts, strict=True))

    assert longest_match(windows, 4, limit, lambda g, i: known[g][i]) == max(n for n in range(limit + 1) if fits(n))
