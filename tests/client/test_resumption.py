"""Generations that outlive their coordinators: the caller sees what it would have seen."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import ExitStack

import pytest

from client.fake_coordinator import FakeCoordinator, Step, chunk, finished, serving, started
from client.long_generation import LOST, check_whole, collected, dying, rerouted, rest, waiting
from client.relay import Relay
from osai.client import AsyncClient, Chunk, Finished, GenerationEvent, Rerouted, Started, Timeouts, Waiting
from osai.core import errors
from osai.proto import client_pb2, common_pb2


async def test_a_server_that_stops_breaks_no_generation() -> None:
    halted = asyncio.Event()

    def halting(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        yield from rest(request)[:5]
        yield 30.0

    with serving(FakeCoordinator(rest)) as there, ExitStack() as stopping:
        here = stopping.enter_context(serving(FakeCoordinator(halting)))
        async with AsyncClient([here, there]) as client:
            events: list[GenerationEvent] = []
            async for event in client.generate("x"):
                events.append(event)
                if len(events) == 5 and not halted.is_set():
                    halted.set()
                    await asyncio.to_thread(stopping.close)
    check_whole(events)


async def test_the_same_coordinator_goes_on_once_it_is_back() -> None:
    events: list[GenerationEvent] = []
    with ExitStack() as before, ExitStack() as after:
        address = before.enter_context(serving(FakeCoordinator(lambda request: [*rest(request)[:4], 30.0])))

        async def restart() -> None:
            await asyncio.to_thread(before.close)
            await asyncio.sleep(0.6)
            after.enter_context(serving(FakeCoordinator(rest), address))

        async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
            async for event in client.generate("x"):
                events.append(event)
                if len(events) == 4:
                    group.create_task(restart())
    check_whole(events)
    waits = [event for event in events if isinstance(event, Waiting)]
    assert len(waits) == 1  # told once, however often it is tried
    assert 50 < waits[0].remaining_s <= 60
    (moved,) = [event for event in events if isinstance(event, Rerouted)]
    assert 0.5 < moved.pause_s < 5


async def test_a_coordinator_that_freezes_is_noticed_and_left() -> None:
    frozen = FakeCoordinator(lambda request: [*rest(request)[:4], 30.0])
    with serving(frozen) as target, serving(FakeCoordinator(rest)) as there:
        relay = Relay(target)
        async with relay.serving() as here, AsyncClient([here, there]) as client:
            events: list[GenerationEvent] = []
            begun = 0.0
            async for event in client.generate("x"):
                events.append(event)
                if len(events) == 4:
                    relay.freeze()
                    begun = time.monotonic()
                if isinstance(event, Rerouted):
                    assert time.monotonic() - begun < 6
    check_whole(events)


async def test_coordinators_are_learned_from_each_other() -> None:
    first, second = FakeCoordinator(), FakeCoordinator()
    with serving(first) as here, serving(second) as there, serving(FakeCoordinator(rest)) as yonder:
        first._script = dying(3, coordinators=["first:by-another-name", there, "not an address"])
        second._script = dying(6, coordinators=["second:by-another-name", yonder])
        async with AsyncClient(here) as client:
            check_whole(await collected(client))
            assert client.coordinators[0] == here
            assert set(client.coordinators) == {here, there, yonder}


async def test_a_swarms_coordinators_are_learned_too() -> None:
    with serving(FakeCoordinator()) as there:
        fake = FakeCoordinator(swarm=client_pb2.GetSwarmResponse(coordinators=["me:1", there]))
        with serving(fake) as here:
            client = AsyncClient(here)
            assert (await client.swarm()).coordinators == ("me:1", there)
        assert client.coordinators == (here, there)
        assert await client.models() == ()  # here is gone: there answers
        assert client.address == there
        await client.close()


@pytest.mark.parametrize(
    "refusal",
    [
        errors.NotCoveredError("layers 2:4 have no node"),
        errors.ResourceExhaustedError("no KV"),
        errors.UnavailableError("a stage can't be reached"),
        errors.AssignmentError("a later epoch is here"),
        errors.UnknownModelError("not here"),
    ],
)
async def test_a_coordinator_that_can_not_go_on_yet_is_not_the_last_word(refusal: errors.OsaiError) -> None:
    second, third = FakeCoordinator(lambda _: [refusal]), FakeCoordinator(rest)
    with serving(FakeCoordinator(dying(4))) as here, serving(second) as there, serving(third) as yonder:
        async with AsyncClient([here, there, yonder]) as client:
            check_whole(await collected(client))
    assert (len(second.requests), len(third.requests)) == (1, 1)
    assert third.requests[0].resume.attempt == 2


async def test_logprobs_go_along_and_stay() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        known = len(request.resume.tokens)
        yield started(seed=7)
        for i in range(known, 3):
            top = [common_pb2.TokenLogprob(token_id=i, logprob=-0.25)]
            yield chunk(i, [i], "x", logprob=-0.25 * i, top=top)
            if known == 0 and i == 1:
                yield LOST
        yield finished(3)

    fake = FakeCoordinator(script)
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            completion = await client.complete("x", num_logprobs=1)
    assert completion.logprobs is not None
    assert [token.logprob for token in completion.logprobs] == [0.0, -0.25, -0.5]
    assert [token.top[0].token_id for token in completion.logprobs] == [0, 1, 2]
    assert [(token.logprob, token.top[0].token_id) for token in fake.requests[1].resume.tokens] == [
        (0.0, 0),
        (-0.25, 1),
    ]
    assert completion.num_recoveries == 1


async def test_reroutes_and_waits_are_told_and_the_last_pipeline_is_known() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        opening, *chunks, last = rest(request)
        last.finished.num_recoveries = 1
        return [waiting(9), opening, *chunks[:2], waiting(5), rerouted("a", "c"), chunks[2], LOST]

    second = FakeCoordinator(rest)
    with serving(FakeCoordinator(script)) as here, serving(second) as there:
        async with AsyncClient([here, there]) as client:
            events = await collected(client)
            check_whole(events)
            completion = await client.complete("x")
    kinds = [type(event) for event in events[:7]]
    assert kinds == [Waiting, Started, Chunk, Chunk, Waiting, Rerouted, Chunk]
    assert [stage.node_id for stage in second.requests[0].resume.pipeline] == ["a", "c"]
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.num_recoveries == 2  # one that the first coordinator told of, and its own loss
    assert completion.num_recoveries == 0


async def test_a_wait_that_is_announced_extends_the_deadline() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        opening, *others = rest(request)
        return [opening, *others[:2], waiting(5), 0.6, *others[2:]]

    with serving(FakeCoordinator(script)) as address:
        async with AsyncClient(address, timeouts=Timeouts(next_token_s=0.3)) as client:
            check_whole(await collected(client))
