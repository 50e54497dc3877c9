"""What a key's generations set aside and give back, step by step."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from coordinator.keys_world import Keys, only_key
from gateway.fake_generations import MODEL, FakeGenerations, chunk, finished, scripted, started
from osai.coordinator.api import ChatMessage, GenerationEvent, GenerationRequest, KnownToken, Resumption, Started
from osai.coordinator.keys.api_key import Quota
from osai.coordinator.keys.book import KeyBook
from osai.coordinator.keys.estimate import UNSTATED_TOKENS, estimated_tokens, known_tokens, tokens_to_come
from osai.coordinator.keys.generations import KeyedGenerations
from osai.coordinator.keys.meter import QuotaExceededError
from osai.core.errors import UnauthenticatedError

REQUEST = GenerationRequest(model_id=MODEL, prompt="x")
LONG = replace(started(), num_prompt_tokens=40)  # of a prompt that looks like one token


def resuming(num_tokens: int) -> Resumption:
    return Resumption(session=1, attempt=1, tokens=(KnownToken(token_id=1),) * num_tokens, pipeline=())


def keyed(fake: FakeGenerations, keys: Keys) -> KeyedGenerations:
    return KeyedGenerations(fake, only_key(keys.book), keys.keyring)


async def run(fake: FakeGenerations, keys: Keys, request: GenerationRequest = REQUEST) -> int:
    async with aclosing(keyed(fake, keys).generate(request)) as events:
        return len([event async for event in events])


async def test_who_named_max_tokens_gets_them_however_long_the_prompt_turns_out_to_be() -> None:
    keys = Keys()
    keys.make(tokens_per_minute=300)
    fake = scripted(LONG, *(chunk(i, "a") for i in range(250)), finished(num_tokens=250))
    async with aclosing(keyed(fake, keys).generate(replace(REQUEST, max_tokens=250))) as events:
        assert isinstance(await anext(events), Started)
        assert await run(scripted(started(), finished()), keys, replace(REQUEST, max_tokens=6)) == 2  # 290 + 4 + 6
        with pytest.raises(QuotaExceededError):
            await run(scripted(started(), finished()), keys, replace(REQUEST, max_tokens=7))
        assert len([event async for event in events]) == 251


async def test_a_prompt_that_is_too_long_after_all_ends_before_the_first_token() -> None:
    keys = Keys()
    keys.make(tokens_per_minute=300)
    assert await run(scripted(LONG, finished()), keys, replace(REQUEST, max_tokens=1)) == 2
    fake = scripted(LONG, chunk(0, "a"), finished())
    with pytest.raises(QuotaExceededError):
        await run(fake, keys, replace(REQUEST, max_tokens=225))  # 40 are used, 226 thought to be needed, 265 really
    assert fake.num_cancelled == 1
    assert await run(fake, keys, replace(REQUEST, max_tokens=220)) == 3  # nothing is held back


async def test_a_resumed_session_s_known_tokens_count_as_its_prompt() -> None:
    keys = Keys()
    keys.make(tokens_per_minute=100)
    request = replace(REQUEST, max_tokens=50, resume=resuming(30))
    assert await run(scripted(started(), finished()), keys, request) == 2  # 34 of them
    assert await run(scripted(started(), finished()), keys, replace(REQUEST, max_tokens=62)) == 2
    with pytest.raises(QuotaExceededError):
        await run(scripted(started(), finished()), keys, replace(REQUEST, max_tokens=62))


async def test_a_new_quota_in_the_file_holds_at_once() -> None:
    keys = Keys()
    keys.make(requests_per_minute=1)
    await run(FakeGenerations(), keys)
    with pytest.raises(QuotaExceededError):
        await run(FakeGenerations(), keys)
    keys.keyring.replace(KeyBook((replace(only_key(keys.book), quota=Quota(requests_per_minute=2)),)))
    await run(FakeGenerations(), keys)
    with pytest.raises(QuotaExceededError):
        await run(FakeGenerations(), keys)


@pytest.mark.parametrize(
    ("prompt", "num_tokens"),
    [
        ("", 1),
        ("x" * 400, 101),
        ((1, 2, 3), 3),
        ((ChatMessage(role="user", content="x" * 40), ChatMessage(role="user", content="")), 11 + 1 + 8),
    ],
)
def test_prompts_are_guessed_at(prompt: str | tuple[int, ...] | tuple[ChatMessage, ...], num_tokens: int) -> None:
    request = replace(REQUEST, prompt=prompt, max_tokens=10)
    assert estimated_tokens(request) == num_tokens + 10
    assert estimated_tokens(replace(request, max_tokens=None)) == num_tokens + UNSTATED_TOKENS
    resumed = replace(request, resume=resuming(4))
    assert (estimated_tokens(resumed), known_tokens(resumed), tokens_to_come(resumed)) == (num_tokens + 10, 4, 6)


@pytest.mark.parametrize("max_tokens", [0, -5, 3])
def test_nothing_is_set_aside_for_less_than_nothing(max_tokens: int) -> None:
    assert tokens_to_come(replace(REQUEST, max_tokens=max_tokens, resume=resuming(4))) == 0


async def test_a_key_that_is_revoked_before_its_generation_begins_begins_none() -> None:
    keys, fake = Keys(), FakeGenerations()
    text = keys.make()
    events = keyed(fake, keys).generate(REQUEST)
    keys.revoke(text)
    with pytest.raises(UnauthenticatedError, match="is revoked"):
        await anext(events)
    assert fake.requests == []


async def test_a_key_that_is_revoked_while_its_holder_takes_nothing_gets_nothing_more() -> None:
    keys, fake = Keys(), FakeGenerations()
    text = keys.make()
    async with aclosing(keyed(fake, keys).generate(REQUEST)) as events:
        await anext(events)
        keys.revoke(text)
        with pytest.raises(UnauthenticatedError, match="is revoked"):
            await anext(events)
    assert fake.num_cancelled == 1


async def test_a_generation_is_left_the_time_to_end_however_often_it_is_told_to() -> None:
    class Slow(FakeGenerations):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
            try:
                yield started()
                await asyncio.Event().wait()
            finally:
                for _ in range(5):
                    await asyncio.sleep(0.01)
                    keys.keyring.look()
                self.closed.set()

    keys, fake = Keys(), Slow()
    text = keys.make()
    async with aclosing(keyed(fake, keys).generate(REQUEST)) as events:
        await anext(events)
        asyncio.get_running_loop().call_later(0.02, keys.revoke, text)
        with pytest.raises(UnauthenticatedError, match="is revoked"):
            await asyncio.wait_for(anext(events), 3)
    assert fake.closed.is_set()
