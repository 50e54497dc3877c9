"""Releases N and N - 1 serve together: a node and a client of protocol 1, as recorded, beside members of today."""

import asyncio
import functools
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from osai.client import AsyncClient, Chunk, Completion
from osai.client.completion import CompletionBuilder
from osai.client.up.members import wait_for_members
from osai.core.embedded import MODEL_ID, model_dir, publisher_key_file
from osai.core.manifest import MANIFEST_FILE
from osai.core.rpc import insecure_channel
from osai.proto import client_pb2, client_pb2_grpc
from swarm.programs import Hosted, SignedModel, TestSwarm

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

RECORDING = Path(__file__).parent / "recorded" / "v1.jsonl"
MODEL = SignedModel(model_id=MODEL_ID, folder=model_dir(), manifest=model_dir() / MANIFEST_FILE)
NAMES = {"head": "0:2", "middle": "2:4", "tail": "4:6"}
GREEDY, SAMPLED = 0, 1  # the recorded requests; tails of this release draw other tokens than those of protocol 1 did


@functools.cache
def recording() -> Any:  # noqa: ANN401 - scripts/ can be imported only once a test runs
    from scripts.chaos_runs.recording import Recording

    return Recording.load(RECORDING)


def v1_node(name: str) -> Any:  # noqa: ANN401 - a RecordedNode
    from scripts.chaos_runs.recorded_node import RecordedNode

    return RecordedNode(recording(), name)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestSwarm]:
    """A coordinator and a node of each span, of this release."""
    with TestSwarm(tmp_path_factory.mktemp("swarm"), publisher_key_file()) as running:
        running.serve([MODEL])
        running.add_nodes([[Hosted(model=MODEL, span=span)] for span in NAMES.values()])
        yield running


async def ask(address: str, number: int) -> Completion:
    options = dict(recording().about["requests"][number])
    async with AsyncClient(address) as client:
        return await client.complete(options.pop("prompt"), ignore_eos=True, **options)


@pytest.mark.parametrize("number", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_the_recorded_client_is_served(swarm: TestSwarm, number: int) -> None:
    requests = [said for said in recording().of("/osai.v1.Coordinator/Generate") if said.by_dialler]
    request = client_pb2.GenerateRequest.FromString(requests[number].data)
    async with insecure_channel(swarm.address) as channel:
        stub: Any = client_pb2_grpc.CoordinatorStub(channel)
        events = [event async for event in stub.Generate(request)]
    kinds = {event.WhichOneof("kind") for event in events}
    assert kinds == {"started", "chunk", "finished"}  # none that its release does not know
    token_ids = [token.token_id for event in events for token in event.chunk.tokens]
    told = recording().about["token_ids"][number] if number == GREEDY else (await ask(swarm.address, number)).token_ids
    assert token_ids == list(told)


@pytest.mark.parametrize("name", list(NAMES))
async def test_a_recorded_node_serves_beside_nodes_of_this_release(swarm: TestSwarm, name: str) -> None:
    """The node of this release that hosts the same layers is stopped meanwhile, so that all goes over the old one."""
    index = list(NAMES).index(name)
    node = v1_node(name)
    async with node.joined(swarm.address):
        await wait_for_members(swarm.address, [node.node_id])
        await asyncio.to_thread(swarm.nodes[f"node-{index}"].stop)
        for number in (GREEDY, SAMPLED) if name == "tail" else (GREEDY,):
            completion = await ask(swarm.address, number)
            assert list(completion.token_ids) == recording().about["token_ids"][number]
            assert node.node_id in {stage.node_id for stage in completion.pipeline}
        swarm.start_node(f"node-{index}", [Hosted(model=MODEL, span=NAMES[name])])
        ready = await asyncio.to_thread(swarm.nodes[f"node-{index}"].ready)
        await wait_for_members(swarm.address, [ready["id"]])
    assert node.violations == []


async def test_a_session_goes_on_when_a_recorded_node_is_replaced_by_one_of_this_release(swarm: TestSwarm) -> None:
    """As in a rolling upgrade that does not even drain; the old node gets nothing that it does not know."""
    node, builder = v1_node("middle"), CompletionBuilder(with_logprobs=False)
    options = dict(recording().about["requests"][GREEDY])
    async with AsyncExitStack() as stack, AsyncClient(swarm.address) as client:
        old = await stack.enter_async_context(AsyncExitStack())
        await old.enter_async_context(node.joined(swarm.address))
        await wait_for_members(swarm.address, [node.node_id])
        await asyncio.to_thread(swarm.nodes["node-1"].stop)
        events = client.generate(options.pop("prompt"), ignore_eos=True, **options)
        async for event in events:
            builder.add(event)
            if isinstance(event, Chunk) and event.index == 3:
                await old.aclose()  # gone without a word
                swarm.start_node("node-1", [Hosted(model=MODEL, span=NAMES["middle"])])
    completion = builder.completion()
    assert list(completion.token_ids) == recording().about["token_ids"][GREEDY]
    assert completion.num_recoveries >= 1
    assert node.violations == []
