"""Where stages go on: a chain of stages that follows the plan has every row once, in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osai.coordinator.sessions.recovery import StageStart, Standing, check_standing, plan_resume
from osai.core.errors import PeerError

KNOWN = 20


@st.composite
def standing(draw: st.DrawFn) -> Standing:
    position = draw(st.integers(0, KNOWN - 1))
    return Standing(position=position, journal_begin=draw(st.integers(0, position)))


def run_rows(standings: list[Standing], starts: tuple[StageStart, ...]) -> list[list[int]]:
    """Which rows each stage runs, given only what its predecessor pushes; the head is given ids from its start on."""
    ran = []
    coming = list(range(starts[0].position, KNOWN))
    for before, start in zip(standings, starts, strict=True):
        assert coming[0] == start.position  # what comes first is what is due
        ran.append(coming)
        replayed = range(start.push_from, start.position)
        assert not replayed or before.journal_begin <= start.push_from  # the journal has it
        assert not replayed or start.position <= before.position
        coming = [*replayed, *(row for row in coming if row >= start.push_from)]
    return ran


@given(st.lists(standing(), min_size=1, max_size=6))
def test_every_stage_gets_every_row_that_it_lacks_once_and_in_order(standings: list[Standing]) -> None:
    starts = plan_resume(standings)
    ran = run_rows(standings, starts)
    for before, start, rows in zip(standings, starts, ran, strict=True):
        assert start.position <= before.position  # nobody is told to have what it has not
        assert rows == list(range(start.position, KNOWN))


@given(st.lists(standing(), min_size=1, max_size=6))
def test_no_stage_computes_again_what_it_need_not(standings: list[Standing]) -> None:
    for i, (before, start) in enumerate(zip(standings, plan_resume(standings), strict=True)):
        if start.position < before.position:  # a later one lacks rows that this one's journal has no more
            assert before.journal_begin > start.position == plan_resume(standings)[i + 1].position


@pytest.mark.parametrize(
    ("stands", "starts"),
    [
        ([(9, 0), (0, 0), (9, 9)], [(9, 0), (0, 9), (9, 9)]),  # the middle was lost: the head's journal rebuilds it
        ([(9, 0), (9, 0), (0, 0)], [(9, 9), (9, 0), (0, 0)]),  # the tail
        ([(0, 0), (9, 0), (9, 9)], [(0, 9), (9, 9), (9, 9)]),  # the head: from ids
        ([(9, 0), (0, 0), (0, 0)], [(9, 0), (0, 0), (0, 0)]),  # two neighbours
        ([(9, 5), (0, 0), (9, 9)], [(0, 0), (0, 9), (9, 9)]),  # the journal is gone: ids again
        ([(9, 0), (9, 5), (0, 0)], [(9, 0), (0, 0), (0, 0)]),  # one more stage back
        ([(9, 9), (7, 0), (9, 9)], [(7, 7), (7, 9), (9, 9)]),  # rows were on their way
    ],
)
def test_examples(stands: list[tuple[int, int]], starts: list[tuple[int, int]]) -> None:
    standings = [Standing(position=position, journal_begin=begin) for position, begin in stands]
    assert [(start.position, start.push_from) for start in plan_resume(standings)] == starts


@pytest.mark.parametrize(("position", "begin"), [(KNOWN, 0), (3, 4), (-1, -1), (2**32 - 1, 0)])
def test_what_no_stage_can_say_is_refused(position: int, begin: int) -> None:
    with pytest.raises(PeerError, match="claims rows before"):
        check_standing(Standing(position=position, journal_begin=begin), KNOWN - 1)
    check_standing(Standing(position=KNOWN - 1, journal_begin=KNOWN - 1), KNOWN - 1)
