"""Which layers a node gets: those that it asks for, or those that are needed and fit."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from families.fixtures import Checkpoints
from families.reference import generate_greedy, load_whole
from osai.client import AsyncClient, Completion
from osai.core.errors import NotCoveredError, UnavailableError
from swarm.programs import Hosted, Publisher, SignedModel, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

PROMPT = [5, 99, 250, 17, 42, 8, 301]
START_S = 12.0  # in which a coordinator that has just started moves nobody


async def test_a_span_alone_is_of_the_only_model(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints
) -> None:
    folder = tmp_path_factory.mktemp("alone")
    publisher = Publisher(folder)
    with TestSwarm(folder, publisher.public_key) as swarm:
        swarm.serve([publisher.sign("llama", checkpoints("llama"))])
        program = swarm.start_node("alone", [], "--span", "1:3", "--weights", str(checkpoints("llama")))
        assert program.ready()["spans"] == [{"model": "llama", "start": 1, "end": 3}]


async def test_small_nodes_are_assigned_spans_that_join_into_a_pipeline(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints
) -> None:
    folder = tmp_path_factory.mktemp("small")
    publisher = Publisher(folder)
    model = publisher.sign("llama", checkpoints("llama"))
    with TestSwarm(folder, publisher.public_key) as swarm:
        swarm.serve([model])
        # room for two layers, the embedding and the KV of one context; the model has six
        swarm.add_nodes([[Hosted(model=model)]] * 3, "--memory", "700KiB")
        async with AsyncClient(swarm.address) as client:
            completion = await client.complete(PROMPT, max_tokens=20, ignore_eos=True)
    spans = [(stage.span.start, stage.span.end) for stage in completion.pipeline]
    assert spans == [(0, 2), (2, 4), (4, 6)]
    assert list(completion.token_ids) == generate_greedy(load_whole(checkpoints("llama")), PROMPT, 20)


async def test_quantised_nodes_are_placed_by_what_their_weights_take(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints
) -> None:
    """The same memory that takes two layers each in full takes three of them in int8."""
    folder = tmp_path_factory.mktemp("quantised")
    publisher = Publisher(folder)
    model = publisher.sign("llama", checkpoints("llama"))
    with TestSwarm(folder, publisher.public_key) as swarm:
        swarm.serve([model])
        swarm.add_nodes([[Hosted(model=model)]] * 2, "--memory", "700KiB", "--quantize", "int8")
        async with AsyncClient(swarm.address) as client:
            completion = await client.complete(PROMPT, max_tokens=5, ignore_eos=True)
            nodes = (await client.swarm()).nodes
    assert [span.dtype for node in nodes for span in node.spans] == ["float32+int8"] * 2
    assert [stage.span.end for stage in completion.pipeline] == [3, 6]
    assert len(completion.token_ids) == 5


async def test_when_a_node_leaves_another_one_takes_its_layers_and_the_model_is_served_again(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints
) -> None:
    """Two at the front, one at the back: the back leaves, and one of the front goes there, by itself."""
    folder = tmp_path_factory.mktemp("leaving")
    publisher = Publisher(folder)
    model = publisher.sign("llama", checkpoints("llama"))
    with TestSwarm(folder, publisher.public_key) as swarm:
        swarm.serve([model])
        for i in range(3):  # one after the other: each hosts what is needed then
            ready = swarm.start_node(f"node-{i}", [Hosted(model=model)], "--memory", "1100KiB").ready()
            swarm.ids[f"node-{i}"] = ready["id"]
        expected = generate_greedy(load_whole(checkpoints("llama")), PROMPT, 20)
        async with AsyncClient(swarm.address) as client:
            before = await client.complete(PROMPT, max_tokens=20, ignore_eos=True)
            assert [(stage.span.start, stage.span.end) for stage in before.pipeline] == [(0, 3), (3, 6)]
            tail = next(name for name, node_id in swarm.ids.items() if node_id == before.pipeline[1].node_id)
            await asyncio.sleep(START_S)
            left = await asyncio.to_thread(leave, folder / tail)
            assert "has left after" in left
            assert swarm.nodes[tail].wait() == 0
            after = await completed(client, deadline_s=40.0)
        assert list(before.token_ids) == list(after.token_ids) == expected
        assert [(stage.span.start, stage.span.end) for stage in after.pipeline] == [(0, 3), (3, 6)]
        assert {stage.node_id for stage in after.pipeline} == {
            node_id for name, node_id in swarm.ids.items() if name != tail
        }


def leave(state: Path) -> str:
    command = [sys.executable, "-m", "osai.node", "leave", "--state", str(state), "--timeout", "30"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def serve_again(swarm: TestSwarm, model: SignedModel) -> None:
    """Start the coordinator anew where it was."""
    dht = swarm.dht[0].split("/")
    swarm.serve([model], "--listen", swarm.address, "--dht", f"{dht[2]}:{dht[4]}")


async def completed(client: AsyncClient, deadline_s: float) -> Completion:
    """A completion, as soon as the model is covered."""
    async with asyncio.timeout(deadline_s):
        while True:
            try:
                return await client.complete(PROMPT, max_tokens=20, ignore_eos=True)
            except (NotCoveredError, UnavailableError):
                await asyncio.sleep(0.5)


async def test_a_restarted_coordinator_knows_its_nodes_again_within_seconds(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints
) -> None:
    """Nothing is kept on its disk but its identity: nodes dial in again, and what they host stays as it is."""
    folder = tmp_path_factory.mktemp("restarted")
    publisher = Publisher(folder)
    model = publisher.sign("llama", checkpoints("llama"))
    with TestSwarm(folder, publisher.public_key) as swarm:
        swarm.serve([model])
        swarm.add_nodes([[Hosted(model=model)]] * 2, "--memory", "1100KiB")
        assert swarm.coordinator is not None
        swarm.coordinator.kill()
        swarm.coordinator.stop()  # its pipe is closed
        await asyncio.to_thread(serve_again, swarm, model)
        started_s = time.monotonic()
        async with AsyncClient(swarm.address) as client:
            completion = await completed(client, deadline_s=15.0)
            assert time.monotonic() - started_s < 10
        assert [(stage.span.start, stage.span.end) for stage in completion.pipeline] == [(0, 3), (3, 6)]
        for name in swarm.nodes:
            assert swarm.nodes[name].log().count("assigned layers") == 1  # nothing was loaded again
