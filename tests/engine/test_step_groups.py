"""Sessions settle into groups, so that all stages of a pipeline work at once."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pipeline_simulation import Cost, PipelineSimulation
from osai.node.engine.step_groups import Away
from osai.node.engine.step_timing import merge_until, prompt_window


def cost(fixed_s: float, row_s: float) -> Cost:
    return lambda num_rows: fixed_s + row_s * num_rows


COSTS = {"rows cost": cost(0.010, 0.0005), "rows almost free": cost(0.010, 0.0001), "rows dear": cost(0.005, 0.002)}


def ideal_rate(costs: Sequence[Cost], num_sessions: int, hop_s: float) -> float:
    """Tokens a second of the best number of equal groups: the slowest stage is always busy, or no row ever waits."""

    def rate(size: float) -> float:
        times = [stage(size) for stage in costs]  # type: ignore[arg-type]
        return min(size / max(times), num_sessions / (sum(times) + len(costs) * hop_s))

    return max(rate(num_sessions / num_groups) for num_groups in range(1, num_sessions + 1))


def simulate(
    costs: Sequence[Cost], num_sessions: int, hop_s: float, seed: int, start_s: float = 0.3
) -> PipelineSimulation:
    simulation, phases = PipelineSimulation(costs, hop_s, seed=seed), random.Random(seed)
    for session in range(num_sessions):
        simulation.start(session, 8, phases.random() * start_s)
    return simulation


def rate_of(simulation: PipelineSimulation, from_s: float, until_s: float) -> float:
    simulation.run(until_s)
    return sum(from_s <= time_s for times in simulation.tokens.values() for time_s in times) / (until_s - from_s)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("num_stages", [2, 4])
@pytest.mark.parametrize("hop_s", [0.0, 0.0003, 0.002])
def test_throughput_is_near_that_of_ideal_groups(name: str, num_stages: int, hop_s: float) -> None:
    for num_sessions in (4, 16, 32):
        costs = [COSTS[name]] * num_stages
        simulation = simulate(costs, num_sessions, hop_s, seed=num_sessions)
        rate = rate_of(simulation, 1.2, 2.2)
        assert rate >= 0.9 * ideal_rate(costs, num_sessions, hop_s)
        if hop_s < 0.001:
            size = -(-num_sessions // num_stages)
            assert rate >= 0.9 * size / costs[0](size), "the bottleneck's own rate, where hops cost little beside steps"
        counts = [sum(t >= 1.5 for t in times) for times in simulation.tokens.values()]
        assert min(counts) >= 0.85 * max(counts), "all get the same"


@settings(max_examples=8)
@given(st.integers(2, 32), st.sampled_from([2, 3, 4]), st.sampled_from(sorted(COSTS)), st.integers(0, 1000))
def test_any_number_of_sessions_shares_fairly_and_keeps_the_stages_busy(
    n: int, num_stages: int, name: str, seed: int
) -> None:
    costs = [COSTS[name]] * num_stages
    simulation = simulate(costs, n, 0.0003, seed)
    assert rate_of(simulation, 1.2, 2.2) >= 0.83 * ideal_rate(costs, n, 0.0003)
    last = [max(times) for times in simulation.tokens.values()]
    assert len(last) == n
    assert 2.2 - min(last) <= 4 * num_stages * costs[0](n), "nobody starves"


def test_one_session_never_waits() -> None:
    costs = [COSTS["rows cost"]] * 4
    simulation = simulate(costs, 1, 0.002, seed=1)
    simulation.run(2.0)
    gaps = [b - a for a, b in zip(simulation.tokens[0], simulation.tokens[0][1:], strict=False)]
    assert max(gaps) <= 4 * (costs[0](1) * 1.1 + 0.002) + 1e-9


def test_a_pipeline_of_one_stage_takes_all() -> None:
    simulation = simulate([COSTS["rows cost"]], 16, 0.0, seed=1)
    assert rate_of(simulation, 1.0, 2.0) >= 0.95 * 16 / COSTS["rows cost"](16)


@pytest.mark.parametrize(
    ("costs", "share"),
    [
        ([cost(0.010, 0.0003), cost(0.013, 0.0004)], 0.95),
        ([cost(0.013, 0.0004), cost(0.010, 0.0003)], 0.95),
        ([cost(0.010, 0.0003), cost(0.010, 0.0003), cost(0.020, 0.0003)], 0.7),
        ([cost(0.020, 0.0002), cost(0.005, 0.0001)], 0.6),
    ],
)
def test_stages_of_unequal_speed(costs: Sequence[Cost], share: float) -> None:
    """Where rows are free and one stage is much slower than the others, larger groups would be better still."""
    assert rate_of(simulate(costs, 16, 0.0003, seed=0), 1.5, 2.5) >= share * ideal_rate(costs, 16, 0.0003)


def test_far_away_stages_lose_nothing_to_groups() -> None:
    for num_stages, hop_s, n in ((2, 0.05, 16), (4, 0.1, 16), (4, 0.02, 2)):
        costs = [COSTS["rows cost"]] * num_stages
        assert rate_of(simulate(costs, n, hop_s, seed=0), 4.0, 8.0) >= 0.93 * ideal_rate(costs, n, hop_s)


def test_pipelines_of_other_lengths_on_the_same_stages() -> None:
    """Sessions over both stages, and sessions of a pipeline that has the first stage alone."""
    stage = COSTS["rows cost"]
    simulation = PipelineSimulation([stage, stage], 0.0003, seed=3)
    for session in range(8):
        simulation.start(session, 8, 0.01 * session)
        simulation.start(session + 100, 8, 0.01 * session, path=[0])
    simulation.run(3.0)
    long, short = ([sum(t >= 1.0 for t in simulation.tokens[s + base]) for s in range(8)] for base in (0, 100))
    busiest = stage(12)  # four of the long ones, eight of the short ones
    assert min(short) >= 0.8 * 2.0 / busiest
    assert min(long) >= 0.8 * 2.0 / (2 * busiest + 0.0006)


def test_sessions_that_a_long_step_has_brought_together_part_again() -> None:
    """As behind a prompt's step at the head: with all in one step each stage would be idle half of the time."""
    costs = [COSTS["rows dear"]] * 2
    simulation = simulate(costs, 16, 0.0003, seed=0, start_s=0.0)
    assert rate_of(simulation, 1.2, 2.2) >= 0.9 * 8 / costs[0](8)
    sizes = [len(chunks) for time_s, chunks in simulation.steps[1] if time_s > 1.2]
    assert set(sizes) == {8}


def away(*due_s: float) -> list[Away]:
    return [Away(due - 0.02, 0.02) for due in due_s]


def test_a_step_waits_only_for_rows_that_are_soon_back() -> None:
    assert merge_until(1.0, 4, 4, [], 0.01) is None
    assert merge_until(1.0, 4, 4, away(1.0005, 1.0005), 0.01) == pytest.approx(1.0005 + 0.0015)
    assert merge_until(1.0, 4, 0, away(1.0005), 0.01) is None, "no room"
    assert merge_until(1.0, 4, 4, away(1.009), 0.01) is None, "one would gain 1 ms, four lose 9"
    assert merge_until(1.0, 4, 4, away(1.02), 0.01) is None, "not back before the step's end"
    assert merge_until(1.0, 4, 4, away(0.9), 0.01) is None, "overdue: who knows"


def test_the_window_for_a_step_of_prompts() -> None:
    assert prompt_window(1.0, [], 0.01, 1.5) is None
    assert prompt_window(1.0, [Away(1.0, 0.02), Away(0.99, 0.02)], 0.01, 1.5) == pytest.approx((1.021, 1.05))
    assert prompt_window(1.1, [Away(1.0, 0.02)], 0.01, 1.5) is None, "that row is lost"
