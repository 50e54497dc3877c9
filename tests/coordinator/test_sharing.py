"""KV that stages have already: the prompt begins behind it, and what a session computed is named at its end."""

import asyncio
from contextlib import aclosing

import pytest

from coordinator.builders import MODEL
from coordinator.fake_stage import FakeStage, caching, failed, tokens
from coordinator.world import REQUEST, all_closed, failure, three
from osai.coordinator.api import Finished, GenerationRequest, Started
from osai.coordinator.text import Tokenizer
from osai.core.errors import InternalError, PeerError
from osai.core.prefix import block_hashes, shareable_hashes

PROMPT = tuple(range(60, 100))  # 40 tokens: two full blocks and a half
SHARED = GenerationRequest(model_id=MODEL, prompt=PROMPT, max_tokens=20)


async def session_of(head: FakeStage) -> int:
    return (await head.got("frames")).frames.frames[0].session


def kept(member: FakeStage) -> list[bytes]:
    (close,) = member.of("close")
    return list(close.close.block_hashes)


async def test_the_prompt_begins_behind_what_every_stage_has(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        for member, num in zip(members, (32, 16, 32), strict=True):
            member.script = caching(num)
        async with aclosing(it.generations.generate(SHARED)) as events:
            started = await anext(events)
            assert isinstance(started, Started)
            assert (started.num_prompt_tokens, started.num_cached_tokens) == (40, 16)
            batch = (await members[0].got("frames")).frames
            assert [(f.position, f.count) for f in batch.frames] == [(16, 24)]
            assert len(batch.data) == 24 * 4
        for member in members:
            (message,) = member.of("open")
            assert tuple(message.open.block_hashes) == shareable_hashes(PROMPT)
            assert message.open.num_stages == 3


async def test_a_stage_that_claims_too_much_is_found_out(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        members[1].script = caching(48)
        error = await failure(it, SHARED)
        assert (type(error), error.subject) == (PeerError, "middle")
        await all_closed(members, (await members[0].got("open")).open.session)
        assert not members[0].of("frames")


async def test_a_complete_session_names_all_that_was_computed(tokenizer: Tokenizer) -> None:
    """Of its last token nothing was: it was never an input."""
    generated = tuple(range(70, 79))  # with the prompt 49 tokens, of which 48 were inputs: three blocks
    async with three(tokenizer) as (it, members):
        async with aclosing(it.generations.generate(SHARED)) as events:
            await anext(events)
            session = await session_of(members[0])
            members[2].say(tokens(session, *generated, finish="length"))
            assert isinstance([event async for event in events][-1], Finished)
        await all_closed(members, session)
    hashes = block_hashes([*PROMPT, *generated[:-1]])
    assert len(hashes) == 3
    assert [kept(member) for member in members] == [list(hashes)] * 3
    assert hashes[:2] == shareable_hashes([*PROMPT, *generated, 5])[:2]  # the next turn of the chat begins so


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 2), (8, 2), (9, 3)])
async def test_a_client_that_goes_leaves_what_was_computed(
    tokenizer: Tokenizer, num_tokens: int, num_blocks: int
) -> None:
    async with three(tokenizer) as (it, members):
        async with aclosing(it.generations.generate(SHARED)) as events:
            await anext(events)
            session = await session_of(members[0])
            if num_tokens:
                members[2].say(tokens(session, *range(70, 70 + num_tokens)))
            for _ in range(num_tokens):
                await anext(events)
        await all_closed(members, session)
    assert [len(kept(member)) for member in members] == [num_blocks] * 3


async def test_a_failed_session_names_nothing(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        running = asyncio.create_task(failure(it, SHARED))
        session = await session_of(members[0])
        members[1].say(failed(session, InternalError("boom")))
        await running
        await all_closed(members, session)
    assert [kept(member) for member in members] == [[]] * 3


async def test_a_short_prompt_has_nothing_to_share(tokenizer: Tokenizer) -> None:
    async with three(tokenizer) as (it, members):
        async with aclosing(it.generations.generate(REQUEST)) as events:
            started = await anext(events)
            assert isinstance(started, Started)
            assert started.num_cached_tokens == 0
            await session_of(members[0])
        assert [list(member.of("open")[0].open.block_hashes) for member in members] == [[]] * 3
