"""`osai up`'s planning: spans, threads, command lines, ready lines."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.fake_coordinator import FakeCoordinator, example_swarm, serving
from osai.client.up.members import wait_for_members
from osai.client.up.plan import (
    NodeReady,
    SwarmPlan,
    coordinator_arguments,
    even_spans,
    memory_per_node,
    node_arguments,
    parse_coordinator_ready,
    parse_node_ready,
    parse_spans,
    plan_spans,
    threads_per_node,
    uncovered,
)
from osai.core.errors import InvalidRequestError, SetupError, UnavailableError
from osai.core.layers import LayerRange

PLAN = SwarmPlan(
    model_id="acme/m",
    checkpoint=Path("/models/m"),
    manifest=Path("/run/osai-manifest.json"),
    trust=Path("/run/key.pub"),
    spans=(LayerRange(0, 2), LayerRange(2, 6)),
    dtype="float32",
    threads_per_node=3,
    grpc_port=7070,
    http_port=8080,
)


@given(num_layers=st.integers(1, 200), data=st.data())
def test_even_spans_cut_all_layers_once_and_evenly(num_layers: int, data: st.DataObject) -> None:
    num_nodes = data.draw(st.integers(1, num_layers))
    spans = even_spans(num_layers, num_nodes)
    assert len(spans) == num_nodes
    assert [layer for span in spans for layer in range(span.start, span.end)] == list(range(num_layers))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


@given(num_layers=st.integers(1, 200), num_nodes=st.one_of(st.integers(-5, 0), st.integers(201, 300)))
def test_more_nodes_than_layers_or_none_is_refused(num_layers: int, num_nodes: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"choose 1 to {num_layers}"):
        even_spans(num_layers, num_nodes)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=8))
def test_spans_are_read_as_they_are_written(pairs: list[tuple[int, int]]) -> None:
    spans = tuple(LayerRange(start, start + length) for start, length in pairs)
    assert parse_spans(",".join(map(str, spans)), 40) == spans
    gaps = uncovered(spans, 40)
    assert set(gaps) | {layer for span in spans for layer in range(span.start, span.end)} == set(range(40))
    assert not any(layer in span for span in spans for layer in gaps)


@given(st.text(max_size=12))
def test_any_text_is_spans_or_a_typed_error(text: str) -> None:
    try:
        spans = parse_spans(text, 12)
    except InvalidRequestError:
        return
    assert all(span.end <= 12 for span in spans)


@pytest.mark.parametrize("text", ["", "0", "0:2,", "2:2", "3:1", "-1:2", "0:2;2:4", "a:b", "0:7"])
def test_spans_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_spans(text, 6)


def test_spans_of_nodes_and_of_options() -> None:
    assert [str(span) for span in plan_spans(7, None, None)] == ["0:3", "3:5", "5:7"]
    assert [str(span) for span in plan_spans(2, None, None)] == ["0:1", "1:2"]  # no more nodes than layers
    assert [str(span) for span in plan_spans(6, 2, None)] == ["0:3", "3:6"]
    assert [str(span) for span in plan_spans(6, None, "0:3,3:6,3:6")] == ["0:3", "3:6", "3:6"]
    assert len(plan_spans(6, 2, "0:3,3:6")) == 2
    with pytest.raises(InvalidRequestError, match="leave out one"):
        plan_spans(6, 3, "0:3,3:6")
    with pytest.raises(InvalidRequestError, match="7 nodes can't share 6 layers"):
        plan_spans(6, 7, None)


@pytest.mark.parametrize(("num_cores", "num_nodes", "threads"), [(2, 3, 1), (8, 3, 2), (16, 2, 8), (1, 1, 1)])
def test_nodes_share_the_cores(num_cores: int, num_nodes: int, threads: int) -> None:
    assert threads_per_node(num_cores, num_nodes) == threads


def test_command_line_of_the_coordinator() -> None:
    assert " ".join(coordinator_arguments(PLAN, Path("/run/coordinator"))) == (
        "serve --listen 127.0.0.1:7070 --http 127.0.0.1:8080 --dht 127.0.0.1:0 --model /models/m "
        "--manifest /run/osai-manifest.json --trust /run/key.pub --state /run/coordinator --json"
    )


def test_command_line_of_a_node() -> None:
    assert " ".join(node_arguments(PLAN, 1, "127.0.0.1:7070", Path("/run/node-2"))) == (
        "join 127.0.0.1:7070 --model acme/m --span 2:6 --weights /models/m --trust /run/key.pub --dtype float32 "
        "--device cpu --listen 127.0.0.1:0 --dht 127.0.0.1:0 --state /run/node-2 --threads 3 --name node-2 --json"
    )


def test_what_is_not_given_is_left_to_the_programs() -> None:
    plan = SwarmPlan(model_id="m", checkpoint=Path("/m"), trust=Path("/k"), spans=(LayerRange(0, 1),))
    assert "--manifest" not in coordinator_arguments(plan, Path("/s"))
    assert "--dtype" not in node_arguments(plan, 0, "h:1", Path("/s"))


def test_ready_lines() -> None:
    coordinator = parse_coordinator_ready(
        b'{"id": "c", "grpc": "127.0.0.1:1", "http": "http://127.0.0.1:2", "dht": []}'
    )
    assert (coordinator.coordinator_id, coordinator.grpc, coordinator.http) == (
        "c",
        "127.0.0.1:1",
        "http://127.0.0.1:2",
    )
    node = parse_node_ready(b'{"id": "n", "edge": "h:1", "spans": [{"model": "m", "start": 0, "end": 2}], "more": 1}')
    assert node == NodeReady(node_id="n", edge="h:1", spans=(("m", LayerRange(0, 2)),))


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"1", b'{"id": "n"}', b'{"id": "n", "edge": "h:1", "spans": [{"model": "m"}]}',
             b'{"id": "n", "edge": "h:1", "spans": [{"model": "m", "start": 2, "end": 2}]}', b"\xff{}"]
)  # fmt: skip
def test_bad_ready_line_is_a_typed_error(line: bytes) -> None:
    with pytest.raises(SetupError, match="ready line"):
        parse_node_ready(line)
    with pytest.raises(SetupError, match="ready line"):
        parse_coordinator_ready(line)


async def test_members_are_awaited_until_all_are_ready() -> None:
    fake = FakeCoordinator(swarm=example_swarm())
    late = fake.swarm.nodes[1]
    with serving(fake) as address:
        await asyncio.wait_for(wait_for_members(address, [fake.swarm.nodes[0].node_id]), 5)
        waiting = asyncio.create_task(wait_for_members(address, [node.node_id for node in fake.swarm.nodes]))
        await asyncio.sleep(0.4)
        assert not waiting.done()
        late.spans.add(model_id="acme/gap", state="ready").span.end = 2
        await asyncio.wait_for(waiting, 5)


async def test_lost_coordinator_ends_the_wait_for_members() -> None:
    with serving(FakeCoordinator(swarm=example_swarm())) as address:
        waiting = asyncio.create_task(wait_for_members(address, ["nobody"]))
        await asyncio.sleep(0.3)
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(waiting, 10)


def test_nodes_share_most_of_the_free_memory() -> None:
    assert memory_per_node(10_000, 3) == 2_000
    arguments = node_arguments(replace(PLAN, memory_per_node=2_000), 0, "127.0.0.1:1", Path("/s"))
    assert arguments[arguments.index("--memory") + 1] == "2000"
    assert "--memory" not in node_arguments(PLAN, 0, "127.0.0.1:1", Path("/s"))
