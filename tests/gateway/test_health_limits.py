"""The health page's bounds: its size, its strip, its numbers in words."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.fake_generations import example_model, example_node, example_swarm
from gateway.page_text import html_of, text_of
from osai.coordinator.api import SpanView
from osai.coordinator.health.strip import MANY, MAX_CELLS, strip_of
from osai.coordinator.health.wording import (
    MAX_WORD,
    NONE,
    amount,
    duration,
    energy,
    latency,
    listed,
    memory_size,
    rate,
    shortened,
)
from osai.core.layers import LayerRange
from osai.core.precision import ITEM_BYTES, QUANTIZATIONS, Precision

MAX_PAGE_BYTES = 80_000  # its style and script are 20 KB


def test_a_huge_swarm_stays_a_small_page_and_says_what_it_leaves_out() -> None:
    long_name = "a-very-long-name-" * 20
    spans = tuple(
        SpanView(
            model_id=long_name,
            span=LayerRange(i, i + 1),
            dtype=long_name,
            state="failed",
            verified=False,
            failure=long_name,
        )
        for i in range(20)
    )
    nodes = tuple(
        example_node(i, name=long_name, device=long_name, software=long_name, spans=spans) for i in range(10_000)
    )
    models = tuple(
        example_model(f"{i}-{long_name}", num_layers=1000, replicas=(0, 1, 2, 3) * 250, licence=long_name)
        for i in range(50)
    )
    view = example_swarm(nodes=nodes, models=models)
    assert len(html_of(view).encode()) < MAX_PAGE_BYTES
    text = text_of(view)
    assert "Page 1 of 400 · 10,000 nodes, those in trouble first" in text
    assert re.search(r"[23]\d more: see /v1/models", text)
    assert "and 16 more" in text  # spans of a node
    assert "and 988 more" in text  # ranges of a model


def test_hostile_names_cannot_blow_up_the_page() -> None:
    nodes = tuple(example_node(i, name='"' * 10_000, device="\U0001f600" * 10_000) for i in range(1000))
    models = tuple(example_model("&" * 1000, licence="<" * 1000, replicas=(0,) * 6) for _ in range(100))
    assert len(html_of(example_swarm(nodes=nodes, models=models)).encode()) < MAX_PAGE_BYTES


def test_an_ordinary_swarm_is_shown_whole() -> None:
    nodes = tuple(example_node(i, device="NVIDIA GeForce RTX 4090") for i in range(25))
    models = tuple(example_model(f"organisation/model-{i}-70B", num_layers=80, replicas=(1,) * 80) for i in range(10))
    text = text_of(example_swarm(nodes=nodes, models=models))
    assert all(f"node {i} " in text for i in range(25))
    assert all(f"model-{i}-70B" in text for i in range(10))
    assert " more" not in text.replace("three or more", "")


@given(st.lists(st.integers(0, 6), min_size=1, max_size=400))
def test_no_gap_is_lost_on_the_strip(replicas: list[int]) -> None:
    strip = strip_of(replicas)
    assert len(strip.cells) == min(len(replicas), MAX_CELLS)
    assert (0 in strip.cells) == (0 in replicas)
    assert [run.replicas for run in strip.runs for _ in range(len(run.layers))] == replicas
    assert [run.layers.end for run in strip.runs[:-1]] == [run.layers.start for run in strip.runs[1:]]
    if len(replicas) <= MAX_CELLS:
        assert list(strip.cells) == [min(count, MANY) for count in replicas]


def test_every_precision_is_shown_whole() -> None:
    """`bfloat16+int8` used to lose its end, so that two spans that do not join looked alike."""
    for dtype in ITEM_BYTES:
        for quantization in QUANTIZATIONS:
            name = str(Precision(dtype=dtype, quantization=quantization))
            assert shortened(name, MAX_WORD) == name
    span = SpanView(model_id="m", span=LayerRange(0, 2), dtype="bfloat16+int8", state="ready", verified=True)
    assert "bfloat16+int8" in text_of(example_swarm(nodes=(example_node(spans=(span,)),)))
    assert shortened("x" * (MAX_WORD + 1), MAX_WORD) == "x" * (MAX_WORD - 1) + "…"


def test_numbers_are_worded() -> None:
    assert [duration(s) for s in (0, 59.9, 60, 3661, 90_000, -1, float("inf"), float("nan"))] == [
        "0\u00a0s", "59\u00a0s", "1\u00a0min", "1\u00a0h 1\u00a0min", "1\u00a0d 1\u00a0h", *["unknown"] * 3,
    ]  # fmt: skip
    assert [latency(s) for s in (None, 0.00431, 0.0432, 0.9, 1.25, 40)] == [
        NONE, "4.3\u00a0ms", "43\u00a0ms", "900\u00a0ms", "1.2\u00a0s", "40\u00a0s",
    ]  # fmt: skip
    assert [amount(n) for n in (0, 9999, 12_345, 5_000_000, 7.7e10)] == [
        "0", "9,999", "12\u00a0k", "5.0\u00a0M", "77\u00a0G",
    ]  # fmt: skip
    assert [rate(n) for n in (0, 0.25, 9.96, 1234.5)] == ["0", "0.2", "10", "1,234"]
    assert [energy(j) for j in (None, 0.51, 15.3)] == [NONE, "0.5\u00a0J", "15\u00a0J"]
    assert [memory_size(b) for b in (0, 8_000_000_000, 25_769_803_776)] == ["0\u00a0GB", "8\u00a0GB", "25.8\u00a0GB"]
    assert listed(range(3)) == "0, 1, 2"
    assert listed(range(20)).endswith("11 and 8 more")
