"""Energy of a token, and strips of a day: pure figures of the page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fake_generations import example_model, example_node, example_swarm
from gateway.page_text import text_of
from osai.coordinator.health.cards import hosts_of, model_card, reason, token_joules
from osai.coordinator.health.day import day_strip
from osai.coordinator.health.energy import OTHER_GPU_W, joules_a_token, watts_of
from osai.coordinator.health.figures import Figures
from osai.coordinator.health.view import contributors
from osai.coordinator.history.latencies import Latencies
from osai.coordinator.history.minute import Flow
from osai.coordinator.history.past import DAY_CELLS, Contributor, ModelPast, Past

CELL = st.integers(0, 30)


@pytest.mark.parametrize(
    ("device", "watts"),
    [
        ("NVIDIA H100 80GB HBM3", 700),
        ("NVIDIA H100 PCIe", 350),
        ("NVIDIA A100-SXM4-80GB", 400),
        ("NVIDIA A100-PCIE-40GB", 300),
        ("NVIDIA GeForce RTX 4090", 450),
        ("NVIDIA L4", 72),
        ("NVIDIA L40S", 350),
        ("Tesla T4", 70),
        ("some GPU of tomorrow", OTHER_GPU_W),
        ("CPU x86_64, 16 cores", 128),
        ("CPU aarch64, 1 cores", 15),
        ("CPU x86_64, 192 cores", 360),
        ("cpu", 15),
    ],
)
def test_a_device_has_the_watts_of_its_class(device: str, watts: int) -> None:
    assert watts_of(device) == watts


def test_a_token_costs_its_time_times_the_watts_of_its_hosts_by_layers() -> None:
    hosts = [("NVIDIA L4", 30), ("NVIDIA GeForce RTX 4090", 10)]
    assert joules_a_token(0.1, hosts) == pytest.approx(0.1 * (72 * 30 + 450 * 10) / 40)
    assert joules_a_token(None, hosts) is None
    assert joules_a_token(0.1, []) is None


def test_the_last_hour_counts_and_where_it_is_empty_the_last_day() -> None:
    fast, slow = Flow(gaps=Latencies({40: 9})), Flow(gaps=Latencies({80: 9}))
    hosts = hosts_of(example_swarm())["osai/demo"]
    of_hour = token_joules(ModelPast(hour=fast, day=slow), hosts)
    of_day = token_joules(ModelPast(day=slow), hosts)
    assert of_hour is not None
    assert of_day is not None
    assert of_day == pytest.approx(32 * of_hour)  # 40 buckets are five doublings
    assert token_joules(ModelPast(), hosts) is None


@given(st.lists(st.tuples(CELL, CELL), min_size=DAY_CELLS, max_size=DAY_CELLS))
def test_a_strip_of_a_day_leaves_out_what_was_not_watched_alone(cells: list[tuple[int, int]]) -> None:
    there, watched = tuple(min(pair) for pair in cells), tuple(pair[1] for pair in cells)
    strip = day_strip(there, watched)
    drawn = sum(
        int(line.partition("h")[2])
        for path in (strip.always, strip.partly, strip.never)
        for line in path.split("M")
        if line
    )
    assert drawn == sum(seen > 0 for seen in watched)
    assert (strip.share is None) == (not any(watched))
    if strip.share is not None:
        assert strip.share == pytest.approx(100 * sum(there) / sum(watched))


def test_a_day_is_told_in_words_and_a_short_absence_is_no_full_one() -> None:
    whole = (30,) * DAY_CELLS
    assert day_strip(whole, whole).words == "100%"
    assert day_strip((29, *whole[1:]), whole).words == "99.9%"
    assert day_strip((0,) * DAY_CELLS, whole).words == "0%"
    assert day_strip((1, *(0,) * (DAY_CELLS - 1)), whole).words == "0.1%"
    assert day_strip((0,) * DAY_CELLS, (0,) * DAY_CELLS).words == "not known yet"


def test_contributors_without_a_name_are_counted_together() -> None:
    named = [Contributor(name=f"n{i}", num_nodes=1, tokens_day=i, tokens_month=100 * i) for i in range(20, 0, -1)]
    unnamed = [Contributor(name=name, num_nodes=2, tokens_day=5, tokens_month=7) for name in ("", "  ")]
    found = contributors(Figures(past=Past(contributors=(*named, *unnamed))))
    assert [line.name for line in found.lines] == [f"n{i}" for i in range(20, 8, -1)]
    assert (found.lines[0].width, found.num_more) == (100, 8)
    assert (found.num_unnamed_nodes, found.unnamed_day, found.unnamed_month) == (4, "10", "14")


def test_a_model_whose_spans_do_not_join_says_why() -> None:
    model = example_model(replicas=(1,) * 6, routable=False)
    assert "no spans of one precision join" in reason(model)
    assert not model_card(model).servable
    assert "no spans of one precision join" in text_of(example_swarm(models=(model,)))
    assert reason(example_model()) == reason(example_model(replicas=(0,) * 6)) == ""


def test_what_a_node_says_of_itself_never_stands_alone() -> None:
    text = text_of(example_swarm(nodes=(example_node(1, name=""), example_node(16**24, name=" "))))
    assert "unnamed 00000000" in text
    assert "unnamed 00000001" in text
