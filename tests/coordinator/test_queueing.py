"""Requests that find no KV wait for it, over real links to stages that have room for some sessions."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import aclosing

import pytest

from coordinator.builders import MODEL
from coordinator.fake_stage import FakeStage, Message, failed, opened, refusing, stages, tokens
from coordinator.world import REQUEST, World, collected, failure, three, world
from osai.coordinator.admission import QueueConfig
from osai.coordinator.api import Finished, GenerationEvent, Started
from osai.coordinator.text import Tokenizer
from osai.core.errors import ResourceExhaustedError

SOON_S = 1.0
NEVER_S = 60.0
PATIENT = QueueConfig(retry_s=NEVER_S)  # tries again only when a session ends


class Roomy:
    """A stage's script with room for some sessions."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.now: set[int] = set()

    def __call__(self, message: Message) -> Iterable[Message]:
        if message.WhichOneof("kind") == "close":
            self.now.discard(message.close.session)
        if message.WhichOneof("kind") == "open":
            session = message.open.session
            if len(self.now) >= self.room:
                yield failed(session, ResourceExhaustedError("no KV blocks left"))
                return
            self.now.add(session)
            yield from opened(message)


async def queued(it: World, count: int) -> None:
    async with asyncio.timeout(5):
        while it.generations.num_queued(MODEL) != count:  # noqa: ASYNC110 - another task's doing
            await asyncio.sleep(0.002)


async def prompted(head: FakeStage, count: int) -> int:
    """The session that is the `count`th to be open on every stage."""
    return (await head.got("frames", count)).frames.frames[0].session


async def test_more_sessions_than_there_is_room_for_run_one_after_another(tokenizer: Tokenizer) -> None:
    async with three(tokenizer, queue=PATIENT) as (it, members):
        members[2].script = Roomy(2)
        runs = [asyncio.create_task(collected(it)) for _ in range(6)]
        for i in range(6):
            members[2].say(tokens(await prompted(members[0], i + 1), 60, finish="stop"))
        ends = [events[-1] for events in await asyncio.gather(*runs)]
        assert all(isinstance(end, Finished) for end in ends)
        assert it.generations.num_queued(MODEL) == 0
        assert it.generations._running == {}


async def test_those_that_wait_are_served_in_the_order_in_which_they_came(tokenizer: Tokenizer) -> None:
    done: list[int] = []

    async def one(it: World, number: int) -> None:
        await collected(it)
        done.append(number)

    async with three(tokenizer, queue=PATIENT) as (it, members):
        members[2].script = Roomy(1)
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(one(it, number))
                await (queued(it, number) if number else members[2].got("open"))
            for i in range(4):
                members[2].say(tokens(await prompted(members[0], i + 1), 60, finish="stop"))
    assert done == [0, 1, 2, 3]


async def test_what_another_coordinator_leaves_is_found_by_trying_again(tokenizer: Tokenizer) -> None:
    async with three(tokenizer, queue=QueueConfig(retry_s=0.05)) as (it, members):
        members[1].script = refusing(ResourceExhaustedError("no KV blocks left"))
        running = asyncio.create_task(collected(it))
        await members[1].got("open", 3)
        members[1].script = opened  # its sessions have ended
        session = (await members[0].got("frames")).frames.frames[0].session
        members[2].say(tokens(session, 60, finish="stop"))
        assert isinstance((await running)[-1], Finished)


async def test_who_waits_too_long_is_refused_with_the_stages_reason(tokenizer: Tokenizer) -> None:
    async with three(tokenizer, queue=QueueConfig(timeout_s=0.3, retry_s=0.05)) as (it, members):
        members[1].script = refusing(ResourceExhaustedError("no KV blocks left"))
        began_s = time.monotonic()
        error = await failure(it)
        assert 0.3 <= time.monotonic() - began_s < SOON_S
        assert isinstance(error, ResourceExhaustedError)
        assert "within 0.3 s (no KV blocks left); try again later" in error.message
        num_opens = len(members[0].of("open"))
        assert num_opens > 2
        await members[0].got("close", num_opens)  # nothing is held while it waits


async def test_a_full_queue_refuses_at_once(tokenizer: Tokenizer) -> None:
    async with three(tokenizer, queue=QueueConfig(max_queued=1, retry_s=NEVER_S)) as (it, members):
        members[1].script = refusing(ResourceExhaustedError("no KV blocks left"))
        waiting = asyncio.create_task(collected(it))
        await queued(it, 1)
        async with asyncio.timeout(SOON_S):
            error = await failure(it)
        assert isinstance(error, ResourceExhaustedError)
        assert "1 requests wait already" in error.message
        waiting.cancel()
        await asyncio.wait([waiting])
        assert it.generations.num_queued(MODEL) == 0


@pytest.mark.parametrize("first_goes", [True, False])
async def test_a_client_that_goes_while_it_waits_leaves_the_line(tokenizer: Tokenizer, *, first_goes: bool) -> None:
    async with three(tokenizer, queue=PATIENT) as (it, members):
        members[2].script = Roomy(1)
        async with aclosing(it.generations.generate(REQUEST)) as running:
            assert isinstance(await anext(running), Started)
            waiting: list[asyncio.Task[list[GenerationEvent]]] = []
            for i in range(2):
                waiting.append(asyncio.create_task(collected(it)))
                await queued(it, i + 1)
            gone = waiting.pop(0 if first_goes else 1)
            gone.cancel()
            await asyncio.wait([gone])
            assert it.generations.num_queued(MODEL) == 1
        members[2].say(tokens(await prompted(members[0], 2), 60, finish="stop"))
        assert isinstance((await waiting[0])[-1], Finished)


async def test_a_record_that_says_there_is_no_room_is_not_the_last_word(tokenizer: Tokenizer) -> None:
    """It used to be: a request failed though its KV had come free within the second."""
    only = FakeStage("only")
    async with stages(only), world(tokenizer) as it:
        it.announce(only, 0, 6, free=0)
        running = asyncio.create_task(collected(it))
        session = (await only.got("frames")).frames.frames[0].session
        only.say(tokens(session, 60, finish="stop"))
        assert isinstance((await running)[-1], Finished)
