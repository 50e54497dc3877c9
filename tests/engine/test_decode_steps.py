"""What a scheduler takes while sessions are decoding."""

import pytest

from engine.pipeline_simulation import spec_of
from engine.test_scheduler import rows_of, scheduler_of, taken
from osai.node.engine.api import Input
from osai.node.engine.options import StepLimits
from osai.node.engine.scheduler import StepScheduler


def decode_row(session: int, position: int) -> Input:
    return rows_of(session, (1 << 19) + position, 1)


def test_a_step_takes_a_group_longest_waiting_first() -> None:
    scheduler = scheduler_of(8, 100, num_stages=2)
    for session in range(5):
        scheduler.add(decode_row(session, 0), 0.0)
    assert [session for session, _, _ in taken(scheduler.next_step(0.0))] == [0, 1, 2]
    scheduler.step_ended(0.01)
    scheduler.add(decode_row(0, 1), 0.01)
    assert [session for session, _, _ in taken(scheduler.next_step(0.01))] == [3, 4, 0]


def test_pipelines_of_other_lengths_have_groups_of_their_own() -> None:
    scheduler = StepScheduler(StepLimits())
    for session, num_stages in enumerate((1, 1, 1, 2, 2, 2, 2, 4, 4)):
        scheduler.open(spec_of(session, 1, num_stages))
        scheduler.add(rows_of(session, 1, 1), 0.0)
    assert [session for session, _, _ in taken(scheduler.next_step(0.0))] == [0, 1, 2, 3, 4, 7]
    assert [session for session, _, _ in taken(scheduler.next_step(0.0))] == [5, 6, 8]


def test_last_rows_of_prompts_are_not_split_into_groups() -> None:
    scheduler = scheduler_of(8, 100, num_stages=4)
    for session in range(8):
        scheduler.add(rows_of(session, 0, 1), 0.0)
    assert len(scheduler.next_step(0.0)) == 8


def test_sessions_that_have_gone_quiet_make_no_group_and_hold_up_no_prompt() -> None:
    scheduler = scheduler_of(100, 1000, num_stages=2)
    for session in range(4):
        scheduler.add(decode_row(session, 0), 0.0)
    scheduler.next_step(0.0)
    scheduler.next_step(0.01)
    scheduler.step_ended(0.02)
    scheduler.add(rows_of(5, 0, 500), 0.5)
    (chunk,) = scheduler.next_step(0.5)
    assert chunk.rows.count == 8, "others are decoding, and nothing is known of larger steps"
    (chunk,) = scheduler.next_step(1.6)
    assert chunk.rows.count == 100
    scheduler.add(decode_row(1, 1), 1.7)
    scheduler.close(1)
    scheduler.close(1)
    assert [session for session, _, _ in taken(scheduler.next_step(1.7))] == [5]


def test_a_step_of_prompts_is_held_back_for_a_decode_row_that_is_due() -> None:
    """And no longer than three times its usual time away; it comes back within that to a free stage."""
    scheduler = scheduler_of(100, 10_000, num_stages=2)
    now_s = 0.0
    for position in range(20):  # 10 ms here, 10 ms away
        scheduler.add(decode_row(1, position), now_s)
        assert len(scheduler.next_step(now_s)) == 1
        scheduler.step_ended(now_s + 0.01)
        now_s += 0.02
    scheduler.cost.observe(8, 0.01)
    scheduler.add(decode_row(1, 20), now_s)
    assert taken(scheduler.next_step(now_s)) == [(1, (1 << 19) + 20, 1)]
    scheduler.add(rows_of(5, 0, 1000), now_s)
    now_s += 0.01
    scheduler.step_ended(now_s)  # due after 10 ms; 15 if prompts stretch its way
    (blind,) = scheduler.next_step(now_s)
    assert blind.rows.session == 5
    assert 8 <= blind.rows.count <= 12
    scheduler.step_ended(now_s + 0.01)
    assert scheduler.next_step(now_s + 0.01) == ()
    assert scheduler.held_until_s == pytest.approx(now_s + 0.03)
    scheduler.add(decode_row(1, 21), now_s + 0.015)
    assert [session for session, _, _ in taken(scheduler.next_step(now_s + 0.015))] == [1, 5]
    scheduler.step_ended(now_s + 0.025)
    for late_s in (0.026, 0.041, 0.056):
        scheduler.next_step(now_s + late_s)
        scheduler.step_ended(now_s + late_s + 0.01)
    assert scheduler.next_step(now_s + 0.07), "a row that does not come back does not hold up prompts"
