"""What is recorded of generations and of the swarm: minutes, histograms, rates."""

from contextlib import aclosing, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fake_generations import (
    MODEL,
    STAGES,
    FakeGenerations,
    Step,
    chunk,
    example_model,
    example_node,
    example_swarm,
    finished,
    scripted,
    started,
    token,
)
from osai.coordinator.api import GenerationRequest, Rerouted, Resumption
from osai.coordinator.history.latencies import Latencies
from osai.coordinator.history.minute import Coverage
from osai.coordinator.history.rates import NUM_SLOTS, SLOT_S, Rates
from osai.coordinator.history.recorded import RecordedGenerations
from osai.coordinator.history.recorder import Recorder
from osai.core.errors import UnavailableError

FIRST, SECOND, THIRD = (stage.node_id for stage in STAGES)


class Ticks:
    """A clock that goes on by a second at each look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


async def recorded(fake: FakeGenerations, request: GenerationRequest | None = None) -> Recorder:
    recorder = Recorder()
    generations = RecordedGenerations(fake, recorder, Ticks())
    asked = request or GenerationRequest(model_id="asked", prompt="x")
    async with aclosing(generations.generate(asked)) as events:
        with suppress(UnavailableError):
            async for _ in events:
                pass
    return recorder


async def test_tokens_count_for_every_node_that_had_a_part_in_them() -> None:
    two = (token("b"), token("c"))
    moved = Rerouted(pipeline=(STAGES[0], STAGES[2]), reason="lost", pause_s=0.5)
    steps: list[Step] = [started(), chunk(0, "a"), chunk(1, "bc", *two), moved, chunk(3, "d"), finished()]
    minute = (await recorded(scripted(*steps))).close_minute(7)
    assert minute.served == {(FIRST, MODEL): 4, (SECOND, MODEL): 3, (THIRD, MODEL): 4}
    flow = minute.flows[MODEL]
    assert (flow.num_tokens, flow.num_recoveries) == (4, 1)
    assert (flow.ttft.num_samples, flow.gaps.num_samples) == (1, 3)
    assert flow.ttft.quantile(0.5) == pytest.approx(1.0, rel=0.05)
    assert flow.gaps.quantile(0.5) == pytest.approx(0.5, rel=0.05)  # two that shared a second
    assert flow.gaps.quantile(0.95) == pytest.approx(1.0, rel=0.05)


async def test_what_fails_counts_up_to_there_and_a_resumed_one_has_no_first_token() -> None:
    broken = (await recorded(scripted(started(), chunk(0, "a"), UnavailableError("gone")))).close_minute(7)
    assert broken.flows[MODEL].num_tokens == 1
    resumed = GenerationRequest(
        model_id=MODEL, prompt="x", resume=Resumption(session=1, attempt=1, tokens=(), pipeline=STAGES)
    )
    again = (await recorded(scripted(started(), chunk(3, "d"), chunk(4, "e"), finished()), resumed)).close_minute(7)
    assert (again.flows[MODEL].ttft.num_samples, again.flows[MODEL].gaps.num_samples) == (0, 1)


async def test_a_new_node_has_its_name_from_its_first_token_on() -> None:
    nodes = tuple(example_node(name=f"stage {i}", node_id=stage.node_id) for i, stage in enumerate(STAGES))
    fake = scripted(started(), chunk(0, "a"), finished())
    fake.view = example_swarm(nodes=nodes)
    minute = (await recorded(fake)).close_minute(7)
    assert minute.names == {FIRST: "stage 0", SECOND: "stage 1", THIRD: "stage 2"}


def test_a_minute_keeps_its_worst_moment_and_the_next_one_begins_empty() -> None:
    recorder = Recorder()
    well, thin, broken = (2,) * 6, (1, 2, 2, 2, 2, 2), (0, 2, 2, 2, 2, 2)
    for replicas in (well, broken, thin):
        recorder.see(example_swarm(models=(example_model(replicas=replicas),), nodes=(example_node(1, name="n"),)))
    minute = recorder.close_minute(7)
    assert minute.coverage == {MODEL: Coverage(servable=False, thinnest=0)}
    assert minute.nodes == {f"{1:032x}": "n"}
    after = recorder.close_minute(8)
    assert (after.nodes, after.coverage, after.served, after.flows) == ({}, {}, {}, {})


def test_rates_are_of_the_last_half_minute() -> None:
    rates, window_s = Rates(), SLOT_S * NUM_SLOTS
    rates.add("m", ("a", "b"), 30, 100.0)
    rates.add("m", ("b",), 60, 110.0)
    assert rates.by_model(111.0) == {"m": 90 / window_s}
    assert rates.by_node(111.0) == {"a": 30 / window_s, "b": 90 / window_s}
    assert rates.by_node(100.0 + window_s + SLOT_S) == {"b": 60 / window_s}
    assert rates.by_node(0.0) == {}  # the clock was set back


SECONDS = st.floats(0.001, 200)


@given(st.lists(SECONDS, min_size=1, max_size=80), st.floats(0.01, 1.0))
def test_a_quantile_is_within_a_bucket_of_the_true_one(values: list[float], share: float) -> None:
    found = Latencies()
    for value in values:
        found.add(value)
    quantile = found.quantile(share)
    assert quantile is not None
    assert sum(value <= quantile * 1.06 for value in values) >= share * len(values) - 1e-6
    assert sum(value < quantile / 1.06 for value in values) <= share * len(values)


@given(st.lists(SECONDS, max_size=20), st.lists(SECONDS, max_size=20))
def test_histograms_add_up_and_come_back_from_their_stored_form(left: list[float], right: list[float]) -> None:
    parts = [Latencies(), Latencies()]
    for part, values in zip(parts, (left, right), strict=True):
        for value in values:
            part.add(value)
    whole = Latencies.merged(parts)
    assert whole.num_samples == len(left) + len(right)
    assert Latencies.from_pairs(whole.pairs()).pairs() == whole.pairs()


def test_no_time_is_no_sample() -> None:
    found = Latencies()
    for value in (float("nan"), float("inf")):
        found.add(value)
    assert (found.num_samples, found.quantile(0.5)) == (0, None)
    found.add(-1.0)  # a clock that went back: as short as can be
    found.add(1e9)
    assert found.num_samples == 2
    for wrong in (7, [1], [["x", 1]]):
        with pytest.raises(ValueError, match=r"histogram|invalid|unpack"):
            Latencies.from_pairs(wrong)
