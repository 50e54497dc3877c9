"""Which layers a node gets: those that it asks for, or those that are needed and fit."""

import pytest

from families.fixtures import Checkpoints
from families.reference import generate_greedy, load_whole
from osai.client import AsyncClient
from swarm.programs import Hosted, Publisher, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

PROMPT = [5, 99, 250, 17, 42, 8, 301]


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
