from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pipeline_simulation import spec_of
from osai.core.errors import InvalidRequestError, ResourceExhaustedError
from osai.node.engine.api import Input, Rows
from osai.node.engine.options import StepLimits
from osai.node.engine.scheduler import Chunk, StepScheduler


def rows_of(session: int, position: int, count: int, epoch: int = 0) -> Input:
    """Rows whose data are their own positions, so that a mix-up shows."""
    rows = Rows(session=session, epoch=epoch, position=position, count=count)
    return Input(rows=rows, data=torch.arange(position, position + count))


def scheduler_of(max_prefill_tokens: int, max_waiting_rows: int, *, num_stages: int = 1) -> StepScheduler:
    """With sessions 0 to 9 open, whose prompts have no end: so all of their rows are prompt."""
    limits = StepLimits(
        max_prefill_tokens=max_prefill_tokens,
        min_prefill_tokens=min(8, max_prefill_tokens),
        max_waiting_rows=max_waiting_rows,
    )
    scheduler = StepScheduler(limits)
    for session in range(10):
        scheduler.open(spec_of(session, 1 << 19, num_stages))
    return scheduler


def taken(chunks: tuple[Chunk, ...]) -> list[tuple[int, int, int]]:
    return [(chunk.rows.session, chunk.rows.position, chunk.rows.count) for chunk in chunks]


def test_single_rows_go_first_and_prompts_take_turns() -> None:
    scheduler = scheduler_of(10, 1000)
    for inp in (rows_of(1, 0, 25), rows_of(2, 0, 12), rows_of(3, 7, 1), rows_of(4, 9, 1)):
        scheduler.add(inp, 0.0)
    assert taken(scheduler.next_step(0.0)) == [(3, 7, 1), (4, 9, 1), (1, 0, 10)]
    assert taken(scheduler.next_step(0.0)) == [(2, 0, 10)], "session 1 went to the end of the line"
    scheduler.add(rows_of(5, 0, 4), 0.0)
    assert taken(scheduler.next_step(0.0)) == [(1, 10, 10)]
    assert taken(scheduler.next_step(0.0)) == [(2, 10, 2), (5, 0, 4), (1, 20, 4)]
    assert taken(scheduler.next_step(0.0)) == [(1, 24, 1)]
    assert scheduler.next_step(0.0) == ()


def test_neighbouring_inputs_of_one_epoch_are_taken_as_one() -> None:
    """A journal that is replayed frame by frame is still one chunked prefill."""
    scheduler = scheduler_of(8, 1000)
    for position in range(5):
        scheduler.add(rows_of(1, position, 1), 0.0)
    scheduler.add(rows_of(1, 5, 2, epoch=1), 0.0)
    (first,) = scheduler.next_step(0.0)
    assert (first.rows.position, first.rows.count, first.rows.epoch, first.is_newest) == (0, 5, 0, False)
    assert torch.cat(first.data).tolist() == [0, 1, 2, 3, 4]
    (second,) = scheduler.next_step(0.0)
    assert (second.rows.position, second.rows.count, second.rows.epoch, second.is_newest) == (5, 2, 1, True)


def test_a_full_queue_refuses_with_figures() -> None:
    scheduler = scheduler_of(8, 10)
    scheduler.add(rows_of(1, 0, 7), 0.0)
    with pytest.raises(ResourceExhaustedError, match=r"7 rows wait.*4 more would pass the limit of 10"):
        scheduler.add(rows_of(2, 0, 4), 0.0)
    scheduler.add(rows_of(2, 0, 3), 0.0)
    assert scheduler.num_waiting == 10


def test_rows_that_could_never_wait_are_refused_for_good() -> None:
    scheduler = scheduler_of(8, 10)
    with pytest.raises(InvalidRequestError, match=r"11 rows of one session.*no more than 10 may.*shorter prompt"):
        scheduler.add(rows_of(1, 0, 11), 0.0)
    with pytest.raises(ResourceExhaustedError, match="9 rows wait for their step already"):
        scheduler.check_room(2, num_promised=9)
    assert scheduler.num_waiting == 0


def test_dropped_rows_are_gone_and_others_stay() -> None:
    scheduler = scheduler_of(100, 100)
    for inp in (rows_of(1, 0, 4), rows_of(1, 4, 4), rows_of(1, 8, 4), rows_of(2, 0, 3)):
        scheduler.add(inp, 0.0)
    scheduler.drop(1, 6)
    assert scheduler.num_waiting == 9
    scheduler.drop(3)
    assert taken(scheduler.next_step(0.0)) == [(1, 0, 6), (2, 0, 3)]
    scheduler.add(rows_of(2, 3, 3), 0.0)
    scheduler.drop(2)
    assert (scheduler.num_waiting, scheduler.next_step(0.0)) == (0, ())


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 4), st.integers(1, 40)),
        st.tuples(st.just("drop"), st.integers(0, 4), st.integers(0, 60)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(actions, st.integers(1, 16), st.lists(st.integers(0, 2), min_size=60, max_size=60))
def test_every_row_comes_once_and_in_order(steps: list[tuple[str, int, int]], budget: int, epochs: list[int]) -> None:
    scheduler = scheduler_of(budget, 10_000)
    given_rows: dict[int, list[int]] = defaultdict(list)  # session -> positions that must still come
    next_position: dict[int, int] = defaultdict(int)
    for (action, session, number), epoch in zip(steps, epochs, strict=False):
        if action == "add":
            scheduler.add(rows_of(session, next_position[session], number, epoch), 0.0)
            given_rows[session] += range(next_position[session], next_position[session] + number)
            next_position[session] += number
        elif action == "drop":
            position = min(number, next_position[session])
            scheduler.drop(session, position)
            given_rows[session] = [p for p in given_rows[session] if p < position]
            next_position[session] = position
        else:
            check_step(scheduler, given_rows, budget)
        assert scheduler.num_waiting == sum(map(len, given_rows.values()))
    while scheduler.num_waiting:
        check_step(scheduler, given_rows, budget)
    assert not any(given_rows.values())


def check_step(scheduler: StepScheduler, given_rows: dict[int, list[int]], budget: int) -> None:
    decoding = {session for session, positions in given_rows.items() if len(positions) == 1}
    chunks = scheduler.next_step(0.0)
    sessions = [chunk.rows.session for chunk in chunks]
    assert len(set(sessions)) == len(sessions), "a session is in a step once"
    assert set(sessions[: len(decoding)]) == decoding, "who decodes is always in, and first"
    assert sum(chunk.rows.count for chunk in chunks[len(decoding) :]) <= budget
    assert bool(chunks) == any(given_rows.values())
    for chunk in chunks:
        expected = range(chunk.rows.position, chunk.rows.position + chunk.rows.count)
        assert torch.cat(chunk.data).tolist() == list(expected) == given_rows[chunk.rows.session][: chunk.rows.count]
        del given_rows[chunk.rows.session][: chunk.rows.count]
        assert chunk.is_newest == (not given_rows[chunk.rows.session])


@settings(max_examples=50)
@given(st.lists(st.integers(2, 500), min_size=1, max_size=8), st.integers(1, 64))
def test_nobody_waits_longer_than_a_step_for_each_before_it(lengths: list[int], budget: int) -> None:
    """However long the prompts before it, a session gets rows within as many steps as sessions wait."""
    scheduler = scheduler_of(budget, 100_000)
    for session, length in enumerate(lengths):
        scheduler.add(rows_of(session, 0, length), 0.0)
    last_served = dict.fromkeys(range(len(lengths)), 0)
    waiting = dict(enumerate(lengths))
    step = 0
    while waiting:
        step += 1
        for session, _, count in taken(scheduler.next_step(0.0)):
            last_served[session] = step
            waiting[session] -= count
            if not waiting[session]:
                del waiting[session]
        assert all(step - last_served[session] <= len(lengths) for session in waiting)


def test_short_prompts_go_whole_whoever_decodes() -> None:
    """At the least of rows a step, the eighth of eight short prompts would come after the first's last token."""
    scheduler = StepScheduler(StepLimits(max_prefill_tokens=128))
    for session in range(8):
        scheduler.open(spec_of(session, 40))
    scheduler.open(spec_of(8, 4000))
    scheduler.add(rows_of(0, 0, 40), 0.0)
    assert taken(scheduler.next_step(0.0)) == [(0, 0, 40)]
    scheduler.step_ended(1.0)
    scheduler.add(rows_of(8, 0, 4000), 1.0)
    scheduler.add(rows_of(0, 40, 1), 1.0)
    for session in range(1, 8):
        scheduler.add(rows_of(session, 0, 40), 1.0)
    steps = [taken(scheduler.next_step(1.0 + step)) for step in range(3)]
    assert steps[0] == [(0, 40, 1), (1, 0, 40), (2, 0, 40), (3, 0, 40), (4, 0, 4), (8, 0, 4)]
    assert {session for step in steps for session, _, _ in step} == set(range(9))
    assert all(sum(count for _, _, count in step if count > 1) <= 128 for step in steps)
    assert all(any(session == 8 for session, _, _ in step) for step in steps), "the long prompt goes on"
