"""Generations that are not resumed, or in vain: a typed error, and what there is so far."""

import asyncio
import time

import pytest

from client.fake_coordinator import FakeCoordinator, serving, started
from client.long_generation import IDS, LONG, LOST, check_whole, collected, dying, rest, waiting
from osai.client import AsyncClient, Timeouts, Waiting, partial_of
from osai.core import errors
from osai.proto import common_pb2


async def test_the_first_that_answers_is_taken() -> None:
    with serving(FakeCoordinator()) as gone:
        pass
    fake = FakeCoordinator()
    with serving(fake) as address:
        async with AsyncClient([gone, address]) as client:
            assert (await client.complete("x")).text == "All the world's a stage"
        async with AsyncClient([gone, address]) as client:
            assert await client.models() == ()
    async with AsyncClient([gone, address]) as client:
        with pytest.raises(errors.UnavailableError, match="none of 2 coordinators") as caught:
            await client.complete("x")
        with pytest.raises(errors.UnavailableError, match="none of 2 coordinators"):
            await client.models()
    assert gone in caught.value.message
    assert address in caught.value.message


QUICK = Timeouts(resume_s=0.5)


async def test_a_budget_that_runs_out_leaves_what_there_is() -> None:
    fake = FakeCoordinator(lambda request: dying(5)(request) if not request.HasField("resume") else [LOST])
    with serving(fake) as address:
        async with AsyncClient(address, timeouts=QUICK) as client:
            begun = time.monotonic()
            with pytest.raises(errors.UnavailableError, match="none goes on with the generation") as caught:
                await client.complete("x")
    assert 0.4 < time.monotonic() - begun < 2
    partial = partial_of(caught.value)
    assert partial is not None
    assert partial is caught.value.partial  # type: ignore[attr-defined]
    assert (list(partial.token_ids), partial.text, partial.finish_reason) == (IDS[:4], "".join(LONG[:4]), "error")
    assert (partial.usage.num_generated_tokens, partial.seed, len(partial.pipeline)) == (4, 7, 3)
    attempts = [request.resume.attempt for request in fake.requests]
    assert attempts == list(range(len(attempts)))  # each one overtakes those before
    assert 3 < len(attempts) < 15  # with a growing delay in between


async def test_no_resumption_where_none_is_wanted() -> None:
    fake = FakeCoordinator(dying(5))
    with serving(fake) as address:
        async with AsyncClient([address, "127.0.0.1:1"], timeouts=Timeouts(resume_s=0)) as client:
            with pytest.raises(errors.UnavailableError, match="the connection broke") as caught:
                await client.complete("x")
    assert len(fake.requests) == 1
    assert partial_of(caught.value) is not None


@pytest.mark.parametrize(
    "error",
    [
        errors.UnavailableError("node-1 was lost"),  # the coordinator has done what it could
        errors.InternalError("broken"),
        errors.CancelledError("another attempt overtook this one"),
        errors.ContextExceededError("too long"),
    ],
)
async def test_an_error_that_the_coordinator_sends_is_final(error: errors.OsaiError) -> None:
    second = FakeCoordinator(rest)
    with serving(FakeCoordinator(lambda request: [*rest(request)[:3], error])) as here, serving(second) as there:
        async with AsyncClient([here, there]) as client:
            with pytest.raises(type(error), match=error.message) as caught:
                await client.complete("x")
    assert second.requests == []
    partial = partial_of(caught.value)
    assert partial is not None
    assert list(partial.token_ids) == IDS[:2]


async def test_an_error_before_the_first_token_has_no_part() -> None:
    for events in ([], [started()]):
        with serving(FakeCoordinator(lambda _, events=events: [*events, errors.NotCoveredError("gap")])) as address:  # type: ignore[misc]
            async with AsyncClient(address) as client:
                with pytest.raises(errors.NotCoveredError) as caught:
                    await client.complete("x")
        assert partial_of(caught.value) is None


async def test_a_request_that_is_refused_as_it_is_written_is_not_tried_elsewhere() -> None:
    third = FakeCoordinator(rest)
    refusing = FakeCoordinator(lambda _: [errors.InvalidRequestError("no such session")])
    with serving(FakeCoordinator(dying(4))) as here, serving(refusing) as there, serving(third) as yonder:
        async with AsyncClient([here, there, yonder]) as client:
            with pytest.raises(errors.InvalidRequestError, match="no such session") as caught:
                await client.complete("x")
    assert third.requests == []
    assert partial_of(caught.value) is not None


async def test_a_coordinator_that_is_too_old_to_go_on_is_passed_over() -> None:
    old = FakeCoordinator(rest, greeting=common_pb2.Hello(protocol_version=1, software="osai/0.1"))
    first = FakeCoordinator(dying(4))
    with serving(first) as here, serving(old) as there, serving(FakeCoordinator(rest)) as yonder:
        async with AsyncClient([here, there, yonder]) as client:
            check_whole(await collected(client))
    assert old.requests == []
    with serving(old) as alone:
        async with AsyncClient(alone) as client:
            check_whole(await collected(client))  # a new generation it can run
        old._script = dying(4)
        async with AsyncClient(alone) as client:
            with pytest.raises(errors.UnavailableError, match="speaks protocol 1: upgrade it") as caught:
                await client.complete("x")
    assert partial_of(caught.value) is not None


@pytest.mark.parametrize("fields", [{"seed": 8}, {"num_prompt_tokens": 5}])
async def test_another_generation_is_not_taken_for_this_one(fields: dict[str, int]) -> None:
    second = FakeCoordinator(lambda request: rest(request, **fields))
    with serving(FakeCoordinator(dying(4))) as here, serving(second) as there:
        async with AsyncClient([here, there]) as client:
            with pytest.raises(errors.BadFrameError, match="another generation"):
                await client.complete("x")


@pytest.mark.parametrize("way", ["close", "cancel", "hang up"])
async def test_who_has_left_is_not_resumed(way: str) -> None:
    fake = FakeCoordinator(lambda request: dying(4)(request) if not request.HasField("resume") else [LOST])
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            events = client.generate("x")
            for _ in range(4):
                await anext(events)
            assert isinstance(await anext(events), Waiting)
            if way == "close":
                await events.aclose()
            else:
                task = asyncio.create_task(anext(events))
                await asyncio.sleep(0.3)
                if way == "cancel":
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    await client.close()
                    with pytest.raises(errors.CancelledError, match="closed") as caught:
                        await task
                    assert partial_of(caught.value) is not None
            num_requests = len(fake.requests)
            await asyncio.sleep(0.5)
            assert len(fake.requests) == num_requests


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
async def test_a_wait_of_no_length_is_not_believed(seconds: float) -> None:
    with serving(FakeCoordinator(lambda _: [started(), waiting(seconds)])) as address:
        async with AsyncClient(address) as client:
            with pytest.raises(errors.BadFrameError, match="for a number of seconds"):
                await collected(client)
