"""A long prompt does not stall the others' tokens, and gets on all the same."""

import random
from collections import defaultdict
from itertools import pairwise

import pytest

from engine.pipeline_simulation import Cost, PipelineSimulation
from osai.node.engine.options import StepLimits

PROMPT = 99  # the session with the long prompt
COSTS: dict[str, tuple[Cost, int]] = {
    "few rows free": (lambda n: 0.010 + 0.0006 * max(0, n - 16), 512),
    "torch on one core": (lambda n: 0.022 + 0.00175 * max(0, n - 4), 128),  # 125M weights in bf16, measured
    "GPU": (lambda n: 0.010 + 0.00003 * n, 512),
}


def percentile_95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def warm(name: str, num_stages: int, num_sessions: int, hop_s: float) -> PipelineSimulation:
    """Sessions that have been generating for two seconds."""
    step, max_prefill_tokens = COSTS[name]
    limits = StepLimits(max_prefill_tokens=max_prefill_tokens, max_waiting_rows=1 << 20)
    simulation, phases = PipelineSimulation([step] * num_stages, hop_s, limits=limits), random.Random(num_sessions)
    for session in range(num_sessions):
        simulation.start(session, 8, phases.random() * 0.1)
    simulation.run(2.0)
    return simulation


def gaps(simulation: PipelineSimulation) -> list[float]:
    """Between tokens of the sessions other than PROMPT, since they have been warm."""
    return [
        after - before
        for session, times in simulation.tokens.items()
        if session != PROMPT
        for before, after in pairwise(times)
        if before >= 2.0
    ]


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize(("num_sessions", "hop_s"), [(1, 0.0003), (1, 0.002), (4, 0.002), (16, 0.0003)])
def test_gaps_between_tokens_while_a_prompt_of_4096_prefills(name: str, num_sessions: int, hop_s: float) -> None:
    without = warm(name, 2, num_sessions, hop_s)
    without.run(4.0)
    beside = warm(name, 2, num_sessions, hop_s)
    beside.start(PROMPT, 4096, 2.0)
    beside.run_until_token(PROMPT, 60.0)
    assert beside.tokens[PROMPT], "the prompt gets to its end"
    assert percentile_95(gaps(beside)) <= 1.6 * percentile_95(gaps(without))
    assert max(gaps(beside)) <= 2.5 * percentile_95(gaps(without))

    alone = warm(name, 2, 0, hop_s)
    alone.start(PROMPT, 4096, 2.0)
    alone.run_until_token(PROMPT, 60.0)
    assert beside.tokens[PROMPT][0] - 2.0 <= 4.0 * (alone.tokens[PROMPT][0] - 2.0)


def test_gaps_over_three_stages() -> None:
    without = warm("few rows free", 3, 4, 0.0003)
    without.run(4.0)
    beside = warm("few rows free", 3, 4, 0.0003)
    beside.start(PROMPT, 4096, 2.0)
    beside.run_until_token(PROMPT, 60.0)
    assert percentile_95(gaps(beside)) <= 2.0 * percentile_95(gaps(without))


def test_chunks_stream_through_the_stages() -> None:
    """A prompt of m chunks over s stages takes m + s - 1 chunk times."""
    step, _ = COSTS["torch on one core"]
    for num_stages, chunk in ((2, 512), (2, 128), (4, 128)):
        limits = StepLimits(max_prefill_tokens=chunk, max_waiting_rows=1 << 20)
        simulation = PipelineSimulation([step] * num_stages, 0.0003, jitter=0.0, limits=limits)
        simulation.start(PROMPT, 2048, 0.0)
        simulation.run(20.0)
        ideal = (2048 // chunk + num_stages - 1) * step(chunk)
        assert simulation.tokens[PROMPT][0] <= 1.01 * ideal


def test_everybody_gets_on_while_a_prompt_of_30000_prefills() -> None:
    """Decode rows are taken within a few steps of each stage, and every prompt gets rows in between."""
    simulation = warm("few rows free", 2, 8, 0.0003)
    simulation.start(PROMPT, 30_000, 2.0)
    for session in (100, 101, 102):
        simulation.start(session, 700, 2.5)
    simulation.run(6.0)
    for stage in simulation.steps:
        last_step: dict[int, int] = {}
        longest: dict[int, int] = defaultdict(int)
        late = [chunks for time_s, chunks in stage if time_s >= 2.6]
        for number, chunks in enumerate(late):
            for session in (chunk.rows.session for chunk in chunks):
                longest[session] = max(longest[session], number - last_step.get(session, 0))
                last_step[session] = number
        assert all(longest[session] <= 6 for session in range(8)), "those that decode"
        assert longest[PROMPT] <= 6, "prompts share by turns"
    for session in (100, 101, 102):
        assert simulation.tokens[session]
    assert max(gaps(simulation)) <= 0.12
