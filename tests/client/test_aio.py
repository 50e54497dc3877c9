"""AsyncClient against a scripted coordinator."""

import asyncio
from collections.abc import Iterable

import pytest

from client.fake_coordinator import (
    Event,
    FakeCoordinator,
    chunk,
    example_swarm,
    finished,
    serving,
    started,
)
from osai.client import AsyncClient, ChatMessage, Chunk, Finished, GenerationEvent, Retries, Started, TokenLogprob
from osai.core import errors
from osai.core.layers import LayerRange
from osai.proto import client_pb2, common_pb2


async def collected(client: AsyncClient, prompt: str = "x") -> list[GenerationEvent]:
    return [event async for event in client.generate(prompt)]


async def test_events_arrive_typed_and_in_order() -> None:
    with serving(FakeCoordinator()) as address:
        async with AsyncClient(address) as client:
            first, *chunks, last = await collected(client)
    assert isinstance(first, Started)
    assert [stage.span for stage in first.pipeline] == [LayerRange(0, 2), LayerRange(2, 4), LayerRange(4, 6)]
    assert (first.seed, first.num_prompt_tokens, first.pipeline[1].node_id) == (7, 4, "node-1")
    assert [c.tokens[0].token_id for c in chunks if isinstance(c, Chunk)] == [10, 11, 12, 13, 14]
    assert isinstance(last, Finished)
    assert (last.finish_reason, last.usage.num_generated_tokens, last.timings.ttft_s) == ("length", 5, 0.25)


async def test_complete_puts_the_whole_together() -> None:
    with serving(FakeCoordinator()) as address:
        async with AsyncClient(address) as client:
            completion = await client.complete("x")
    assert completion.text == "All the world's a stage"
    assert completion.token_ids == (10, 11, 12, 13, 14)
    assert completion.logprobs is None
    assert completion.pipeline[2].address == "127.0.0.1:9002"


async def test_cached_prompt_tokens_are_told_first_and_of_the_whole() -> None:
    fake = FakeCoordinator(
        lambda _: [started(num_prompt_tokens=40, num_cached_tokens=32), chunk(0, [1], "a"), finished(1)]
    )
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            first, *_ = await collected(client)
            completion = await client.complete("x")
    assert isinstance(first, Started)
    assert (first.num_cached_tokens, completion.num_cached_tokens) == (32, 32)


async def test_more_cached_tokens_than_the_prompt_has_are_not_believed() -> None:
    with serving(FakeCoordinator(lambda _: [started(num_prompt_tokens=4, num_cached_tokens=5)])) as address:
        async with AsyncClient(address) as client:
            with pytest.raises(errors.BadFrameError, match="5 of 4 prompt tokens were cached"):
                await collected(client)


async def test_logprobs_come_where_asked_for() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Event]:
        assert request.sampling.num_logprobs == 1
        yield started()
        yield chunk(0, [5], "a", logprob=-0.5, top=[common_pb2.TokenLogprob(token_id=5, logprob=-0.5)])
        yield finished(1, common_pb2.FINISH_REASON_STOP)

    with serving(FakeCoordinator(script)) as address:
        async with AsyncClient(address) as client:
            completion = await client.complete("x", num_logprobs=1)
    assert completion.finish_reason == "stop"
    assert completion.logprobs is not None
    assert completion.logprobs[0].logprob == -0.5
    assert completion.logprobs[0].top == (TokenLogprob(token_id=5, logprob=-0.5),)


async def test_every_option_reaches_the_coordinator() -> None:
    fake = FakeCoordinator()
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            await client.complete(
                [1, 2], model_id="m", max_tokens=3, temperature=0.5, top_k=4, top_p=0.25, min_p=0.125,
                repetition_penalty=1.5, presence_penalty=-1.0, frequency_penalty=1.0, seed=2**64 - 1, num_logprobs=2,
                stop=["a", "b"], stop_token_ids=[9], ignore_eos=True,
            )  # fmt: skip
            await client.complete([ChatMessage(role="user", content="hi")], stop="END")
            await client.complete("text")
    ids, chat, text = fake.requests
    assert list(ids.token_ids.ids) == [1, 2]
    sampling = ids.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 4, 0.25, 0.125)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.5, -1.0, 1.0)
    assert (sampling.seed, sampling.num_logprobs, ids.max_tokens) == (2**64 - 1, 2, 3)
    assert (list(ids.stop), list(ids.stop_token_ids), ids.ignore_eos, ids.model_id) == (["a", "b"], [9], True, "m")
    assert (chat.chat.messages[0].role, chat.chat.messages[0].content, list(chat.stop)) == ("user", "hi", ["END"])
    assert text.prompt == "text"
    assert not text.HasField("max_tokens")
    assert not text.sampling.HasField("temperature")
    assert not text.sampling.HasField("seed")


async def test_models_and_swarm() -> None:
    with serving(FakeCoordinator(swarm=example_swarm())) as address:
        async with AsyncClient(address) as client:
            models = await client.models()
            swarm = await client.swarm()
    assert [(m.model_id, m.covered, m.replicas) for m in models] == [
        ("acme/whole", True, (1, 1, 1, 1)),
        ("acme/gap", False, (1, 0)),
    ]
    assert swarm.models == models
    assert swarm.nodes[0].spans[1].failure == "tensor x is corrupt"
    assert swarm.nodes[0].spans[0].span == LayerRange(0, 4)


async def test_greets_once_and_again_after_a_loss() -> None:
    fake = FakeCoordinator()
    with serving(fake) as address:
        async with AsyncClient(address, retries=Retries(max_attempts=1)) as client:
            await client.models()
            await client.models()
            assert fake.num_greetings == 1
            fake.failing = True
            with pytest.raises(errors.UnavailableError, match=address):
                await client.models()
            fake.failing = False
            await client.models()
    assert fake.num_greetings == 2


async def test_many_generations_at_once() -> None:
    fake = FakeCoordinator()
    with serving(fake) as address:
        async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.complete(f"prompt {i}")) for i in range(8)]
    assert {task.result().text for task in tasks} == {"All the world's a stage"}
    assert {request.prompt for request in fake.requests} == {f"prompt {i}" for i in range(8)}
