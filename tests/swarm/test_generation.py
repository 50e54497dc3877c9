"""What a client sees of a real swarm: the same seed, stop strings, logprobs, cancellation, several front doors."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from families.fixtures import Checkpoints
from osai.client import AsyncClient, ChatMessage, Chunk, Completion
from swarm.programs import Hosted, Publisher, SignedModel, TestSwarm, wait_until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

PROMPT = [5, 99, 250, 17, 42, 8, 301]
SAMPLED = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 1234, "max_tokens": 48}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints) -> tuple[Publisher, SignedModel]:
    publisher = Publisher(tmp_path_factory.mktemp("publisher"))
    return publisher, publisher.sign("test/llama", checkpoints("llama"))


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, model: tuple[Publisher, SignedModel]) -> Iterator[TestSwarm]:
    publisher, signed = model
    with TestSwarm(tmp_path_factory.mktemp("swarm"), publisher.public_key) as running:
        running.serve([signed])
        running.add_nodes([[Hosted(model=signed, span=span)] for span in ("0:2", "2:5", "5:6")])
        yield running


async def complete(address: str, prompt: list[int] | str, **options: object) -> Completion:
    async with AsyncClient(address) as client:
        return await client.complete(prompt, ignore_eos=True, **options)  # type: ignore[arg-type]


async def test_the_same_seed_gives_the_same_tokens_whatever_the_cuts_and_the_other_sessions(
    swarm: TestSwarm, model: tuple[Publisher, SignedModel], tmp_path_factory: pytest.TempPathFactory
) -> None:
    publisher, signed = model
    alone = await complete(swarm.address, PROMPT, **SAMPLED)
    crowd = [complete(swarm.address, PROMPT[: 2 + i], temperature=1.0, seed=i, max_tokens=60) for i in range(5)]
    together, *_ = await asyncio.gather(complete(swarm.address, PROMPT, **SAMPLED), *crowd)
    with TestSwarm(tmp_path_factory.mktemp("other"), publisher.public_key) as other:
        other.serve([signed])
        other.add_nodes([[Hosted(model=signed, span="0:6")]])
        whole = await complete(other.address, PROMPT, **SAMPLED)
    assert alone.token_ids == together.token_ids == whole.token_ids
    assert len(set(alone.token_ids)) > 5
    assert (await complete(swarm.address, PROMPT, **(SAMPLED | {"seed": 4}))).token_ids != alone.token_ids


async def test_a_stop_string_ends_the_text_before_it(swarm: TestSwarm) -> None:
    free = await complete(swarm.address, PROMPT, **SAMPLED)
    words = [ch for ch in free.text if ch.isascii() and ch.isalnum()]
    stop = words[len(words) // 2]
    stopped = await complete(swarm.address, PROMPT, stop=[stop], **SAMPLED)
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


async def test_logprobs_come_with_the_likeliest_alternatives(swarm: TestSwarm) -> None:
    async with AsyncClient(swarm.address) as client:
        events = client.generate(PROMPT, max_tokens=4, num_logprobs=3, ignore_eos=True)
        tokens = [token async for event in events if isinstance(event, Chunk) for token in event.tokens]
    assert len(tokens) == 4
    for token in tokens:
        assert token.logprob is not None
        assert token.logprob <= 0
        assert token.top[0].token_id == token.token_id  # greedy: the likeliest
        assert [alternative.logprob for alternative in token.top] == sorted(
            (alternative.logprob for alternative in token.top), reverse=True
        )


async def test_a_client_that_goes_away_frees_its_kv_within_a_second(swarm: TestSwarm) -> None:
    async with AsyncClient(swarm.address) as client, AsyncClient(swarm.address) as observer:

        async def num_sessions() -> int:
            return sum(node.num_sessions for node in (await observer.swarm()).nodes)

        async with aclosing(client.generate(PROMPT, max_tokens=500, ignore_eos=True)) as events:
            async for event in events:
                if isinstance(event, Chunk) and await num_sessions() == 3:
                    break
        gone_s = time.monotonic()
        while await num_sessions():  # noqa: ASYNC110 - the swarm is another process
            await asyncio.sleep(0.02)
        assert time.monotonic() - gone_s < 1.0


async def test_chat_text_and_tokens_through_the_openai_client(swarm: TestSwarm) -> None:
    client = openai.AsyncOpenAI(base_url=f"{swarm.http}/v1", api_key="none", timeout=30, max_retries=0)
    async with client:
        models = [model.id async for model in client.models.list()]
        chat = await client.chat.completions.create(
            model="test/llama", messages=[{"role": "user", "content": "hi"}], max_tokens=12, temperature=0
        )
        stream = await client.completions.create(
            model="test/llama", prompt="the quick", max_tokens=12, temperature=0, stream=True
        )
        streamed = "".join([part.choices[0].text async for part in stream if part.choices])
    by_grpc = await complete_chat(swarm.address)
    assert models == ["test/llama"]
    assert chat.choices[0].message.content == by_grpc.text
    async with AsyncClient(swarm.address) as direct:
        assert streamed == (await direct.complete("the quick", max_tokens=12)).text


async def complete_chat(address: str) -> Completion:
    async with AsyncClient(address) as client:
        return await client.complete([ChatMessage(role="user", content="hi")], max_tokens=12)


def test_health_and_reflection_are_there(swarm: TestSwarm, tmp_path: Path) -> None:
    edge = swarm.edges["node-0"]
    for module, address in (("osai.node", edge), ("osai.coordinator", swarm.address)):
        asked = subprocess.run(
            [sys.executable, "-m", module, "health", "--address", address], capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert (asked.returncode, asked.stdout) == (0, "serving\n")
    assert {"osai.v1.Edge", "grpc.health.v1.Health"} <= reflected(edge)
    assert {"osai.v1.Coordinator", "osai.v1.Control", "grpc.health.v1.Health"} <= reflected(swarm.address)


def reflected(address: str) -> set[str]:
    with grpc.insecure_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    return {service.name for service in answer.list_services_response.service}


def test_the_page_the_swarm_and_the_metrics_show_the_nodes(swarm: TestSwarm) -> None:
    page = httpx.get(swarm.http).text
    view = httpx.get(f"{swarm.http}/api/v1/swarm").json()
    metrics = httpx.get(f"{swarm.http}/metrics").text
    assert all(name in page for name in ("test/llama", "node-0", "node-1", "node-2"))
    assert {node["name"] for node in view["nodes"]} == {"node-0", "node-1", "node-2"}
    assert "127.0.0.1:" not in str(view["nodes"])  # no addresses of nodes
    assert "# TYPE" in metrics


def test_a_node_joins_through_any_members_libp2p_address_and_drains_on_sigterm(
    swarm: TestSwarm, model: tuple[Publisher, SignedModel]
) -> None:
    _, signed = model
    program = swarm.start_node("late", [Hosted(model=signed)], join=swarm.dht[0])
    ready = program.ready()
    (span,) = ready["spans"]  # which one hangs on how fast the others were when they measured themselves
    assert span["model"] == "test/llama"
    assert 0 <= span["start"] < span["end"] <= 6

    def names() -> set[str]:
        return {node["name"] for node in httpx.get(f"{swarm.http}/api/v1/swarm").json()["nodes"]}

    wait_until(lambda: "late" in names(), 5, "the node is seen")
    program.process.terminate()
    assert program.wait() == 0
    wait_until(lambda: "late" not in names(), 5, "the node has gone")
    del swarm.nodes["late"]
    program.stop()
