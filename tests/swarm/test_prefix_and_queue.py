"""KV in real swarms: shared where prompts begin alike, and waited for where it is short.

Two coordinators share the nodes. Neither has the KV that the other's sessions left, so that one is the other's
reference: what it answers to a prompt that it sends for the first time is computed from the first token on.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from families.fixtures import Checkpoints
from osai.client import AsyncClient
from osai.core.prefix import BLOCK_TOKENS
from swarm.programs import Hosted, Publisher, TestSwarm, wait_until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(180)]

MODEL = "test/llama"
MEMORY = "2MiB"  # of a node: its weights, and KV for some sessions of 500 tokens
QUEUE_TIMEOUT_S = 0.2  # of the impatient coordinator
SYSTEM = [3 + (7 * i * i + i) % 300 for i in range(200)]
NUM_SHARED = len(SYSTEM) // BLOCK_TOKENS * BLOCK_TOKENS
MAX_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """A swarm, and a second coordinator in it that lets nobody wait for long."""

    swarm: TestSwarm
    impatient: TestSwarm


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, checkpoints: Checkpoints) -> Iterator[Two]:
    publisher = Publisher(tmp_path_factory.mktemp("publisher"))
    signed = publisher.sign(MODEL, checkpoints("llama"))
    folders = [tmp_path_factory.mktemp(name) for name in ("swarm", "impatient")]
    with TestSwarm(folders[0], publisher.public_key) as swarm, TestSwarm(folders[1], publisher.public_key) as impatient:
        swarm.serve([signed])
        swarm.add_nodes([[Hosted(model=signed, span=span)] for span in ("0:3", "3:6")], "--memory", MEMORY)
        impatient.serve([signed], "--join", swarm.dht[0], "--queue-timeout", str(QUEUE_TIMEOUT_S))
        wait_until(lambda: view(impatient)["covered"], 20, "the second coordinator finds the nodes")
        yield Two(swarm=swarm, impatient=impatient)


def view(swarm: TestSwarm) -> dict[str, Any]:
    """The model as a coordinator sees it."""
    (model,) = httpx.get(f"{swarm.http}/api/v1/swarm").json()["models"]
    return dict(model)


async def ask(swarm: TestSwarm, prompt: list[int], max_tokens: int = MAX_TOKENS) -> httpx.Response:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    async with httpx.AsyncClient(timeout=120) as client:
        return await client.post(f"{swarm.http}/v1/completions", json=body | {"logprobs": 0})


async def answer(swarm: TestSwarm, prompt: list[int]) -> tuple[list[str], int]:
    """The tokens that are generated, and how many of the prompt's were there already."""
    response = await ask(swarm, prompt)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["usage"]["completion_tokens"] == MAX_TOKENS
    return body["choices"][0]["logprobs"]["tokens"], body["usage"]["prompt_tokens_details"]["cached_tokens"]


async def test_a_long_system_prompt_is_computed_once(two: Two) -> None:
    first, second = [*SYSTEM, 41, 42, 43], [*SYSTEM, 51, 52]
    assert (await answer(two.swarm, first))[1] == 0
    tokens, num_cached = await answer(two.swarm, second)
    assert num_cached == NUM_SHARED
    fresh, num_fresh = await answer(two.impatient, second)
    assert num_fresh == 0  # the other coordinator's sessions are none of its own
    assert tokens == fresh
    assert (await answer(two.swarm, second))[0] == fresh


async def test_the_next_turn_of_a_chat_goes_on_from_the_answer(two: Two) -> None:
    turn = [*SYSTEM[::-1], 61, 62]
    async with AsyncClient(two.swarm.address) as client:
        said = (await client.complete(turn, max_tokens=MAX_TOKENS, ignore_eos=True)).token_ids
    following = [*turn, *said, *range(70, 90)]
    tokens, num_cached = await answer(two.swarm, following)
    assert num_cached == (len(turn) + MAX_TOKENS - 1) // BLOCK_TOKENS * BLOCK_TOKENS > len(turn)
    fresh, num_fresh = await answer(two.impatient, following)
    assert num_fresh == 0
    assert tokens == fresh


async def test_more_sessions_than_there_is_kv_for_wait_and_all_complete(two: Two) -> None:
    prompts = [[5 + i, *SYSTEM, *SYSTEM[: 150 + i]] for i in range(10)]  # nothing to share
    running = [asyncio.create_task(ask(two.swarm, prompt, max_tokens=100)) for prompt in prompts]
    most_queued = 0
    while not all(task.done() for task in running):
        most_queued = max(most_queued, (await asyncio.to_thread(view, two.swarm))["num_queued"])
    responses = await asyncio.gather(*running)
    assert [response.status_code for response in responses] == [200] * len(prompts)
    assert [response.json()["usage"]["completion_tokens"] for response in responses] == [100] * len(prompts)
    assert most_queued > 0
    assert view(two.swarm)["num_queued"] == 0
    metrics = (await asyncio.to_thread(httpx.get, f"{two.swarm.http}/metrics")).text
    assert f'osai_num_requests_waiting{{model="{MODEL}"}} 0.0' in metrics


async def test_who_would_wait_too_long_is_told_so_in_time(two: Two) -> None:
    async def timed(prompt: list[int]) -> tuple[httpx.Response, float]:
        start_s = time.monotonic()
        response = await ask(two.impatient, prompt, max_tokens=500)
        return response, time.monotonic() - start_s

    outcomes = await asyncio.gather(*(timed([5 + i, 6, 7]) for i in range(12)))
    refused = [(response, took_s) for response, took_s in outcomes if response.status_code != 200]
    assert 0 < len(refused) < len(outcomes)
    for response, took_s in refused:
        assert (response.status_code, response.json()["error"]["code"]) == (429, "resource_exhausted")
        assert f"within {QUEUE_TIMEOUT_S} s" in response.json()["error"]["message"]
        assert "Retry-After" in response.headers
        assert QUEUE_TIMEOUT_S <= took_s < QUEUE_TIMEOUT_S + 3
