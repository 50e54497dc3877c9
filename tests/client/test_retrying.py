"""A client that tries again, against scripted coordinators: what is safe, as often as it may, and nothing else."""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from client.fake_coordinator import Event, FakeCoordinator, Step, chunk, serving, started, whole
from client.long_generation import LOST, rest
from osai.client import AsyncClient, Chunk, Client, GenerationEvent, Rerouted, Retries, Started, Timeouts, Waiting
from osai.core import errors
from osai.proto import client_pb2

SOON = Retries(min_delay_s=0.01, max_delay_s=0.02)
TEXT = "All the world's a stage"
PASSING = errors.UnavailableError("no coordinator of the swarm has room for it")


class Flaky:
    """Plays `first` so many times, then a whole generation."""

    def __init__(self, num_times: int, *first: Step) -> None:
        self._left = num_times
        self._first = first

    def __call__(self, request: client_pb2.GenerateRequest) -> Iterable[Step]:
        if not self._left:
            return whole(request)
        self._left -= 1
        return self._first


def client_of(address: str, **options: Any) -> AsyncClient:  # noqa: ANN401 - of AsyncClient
    return AsyncClient(address, **{"retries": SOON, "rng": random.Random(1), **options})


async def collected(client: AsyncClient, **options: Any) -> list[GenerationEvent]:  # noqa: ANN401 - of generate
    return [event async for event in client.generate("x", **options)]


async def test_what_passes_is_not_seen() -> None:
    fake = FakeCoordinator(Flaky(3, PASSING))
    with serving(fake) as address:
        async with client_of(address) as client:
            first, *chunks, _ = await collected(client)
    assert isinstance(first, Started)
    assert all(isinstance(event, Chunk) for event in chunks)
    assert [request.SerializeToString() for request in fake.requests] == [fake.requests[0].SerializeToString()] * 4


async def test_attempts_end() -> None:
    fake = FakeCoordinator(Flaky(4, PASSING))
    with serving(fake) as address:
        async with client_of(address) as client:
            with pytest.raises(errors.UnavailableError, match="no coordinator of the swarm has room"):
                await client.complete("x")
    assert len(fake.requests) == SOON.max_attempts


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequestError("no"),
        errors.ResourceExhaustedError("the queue is full"),
        errors.ForbiddenError("no"),
        errors.NotCoveredError("layer 3"),
    ],
)
async def test_what_would_fail_again_is_asked_once(error: errors.OsaiError) -> None:
    fake = FakeCoordinator(Flaky(1, error))
    with serving(fake) as address:
        async with client_of(address) as client:
            with pytest.raises(type(error)):
                await client.complete("x")
    assert len(fake.requests) == 1


async def test_nothing_is_asked_for_again_after_the_first_token() -> None:
    fake = FakeCoordinator(Flaky(1, started(), chunk(0, [10], "All"), PASSING))
    with serving(fake) as address:
        async with client_of(address) as client:
            with pytest.raises(errors.UnavailableError):
                await client.complete("x")
    assert len(fake.requests) == 1


async def test_a_session_that_opened_is_the_same_after_another_attempt() -> None:
    """Its seed is what Started told: the caller sees the tokens that it was promised."""

    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        return rest(request) if request.HasField("resume") else [started(session_id=f"{5:016x}"), PASSING]

    fake = FakeCoordinator(script)
    with serving(fake) as address:
        async with client_of(address) as client:
            first, moved, *others = await collected(client)
    assert isinstance(first, Started)
    assert isinstance(moved, Rerouted)
    assert moved.reason == f"it was asked for once more: {PASSING.message}"
    assert not [event for event in others if isinstance(event, Started)]
    (_, again) = fake.requests
    assert (again.resume.attempt, again.resume.seed, len(again.resume.tokens)) == (1, first.seed, 0)


async def test_no_session_is_gone_on_with_where_that_is_not_wanted() -> None:
    fake = FakeCoordinator(Flaky(1, started(), PASSING))
    with serving(fake) as address:
        async with client_of(address, timeouts=Timeouts(resume_s=0)) as client:
            with pytest.raises(errors.UnavailableError):
                await client.complete("x")
    assert len(fake.requests) == 1


async def test_a_lost_coordinator_has_the_time_of_resume_s_and_no_more() -> None:
    fake = FakeCoordinator(lambda _: [LOST])
    with serving(fake) as address:
        async with client_of(address, timeouts=Timeouts(resume_s=0.2)) as client:
            with pytest.raises(errors.UnavailableError, match=r"resume_s is 0\.2"):
                await asyncio.wait_for(client.complete("x"), 5)


async def test_who_names_a_time_is_asked_after_it_and_the_wait_is_told() -> None:
    busy = errors.ResourceExhaustedError("the key's quota is used up", retry_after_s=2.0)
    fake = FakeCoordinator(Flaky(1, busy))
    loop = asyncio.get_running_loop()
    with serving(fake) as address:
        async with client_of(address) as client:
            begun_s = loop.time()
            waits, *_ = await collected(client)
            spent_s = loop.time() - begun_s
    assert isinstance(waits, Waiting)
    assert waits.reason == "the key's quota is used up"
    assert 2.0 <= spent_s < 5.0


async def test_a_time_beyond_the_bound_is_not_waited_for() -> None:
    fake = FakeCoordinator(Flaky(1, errors.ResourceExhaustedError("come back tomorrow", retry_after_s=86400.0)))
    with serving(fake) as address:
        async with client_of(address) as client:
            with pytest.raises(errors.ResourceExhaustedError) as caught:
                await client.complete("x")
    assert caught.value.retry_after_s == 86400.0
    assert len(fake.requests) == 1


async def test_all_calls_of_a_client_share_one_budget() -> None:
    fake = FakeCoordinator(Flaky(1000, PASSING))
    with serving(fake) as address:
        async with client_of(address, retries=replace(SOON, max_attempts=10)) as client:
            for _ in range(10):
                with pytest.raises(errors.UnavailableError):
                    await client.complete("x")
    assert (
        len(fake.requests) == 10 + SOON.bucket_tokens / 2 - 1
    )  # the failure that leaves just half is the last to count


async def test_questions_are_asked_again_too() -> None:
    fake = FakeCoordinator()
    fake.failing = True
    with serving(fake) as address:
        async with client_of(address) as client:
            with pytest.raises(errors.UnavailableError):
                await client.models()
    assert fake.num_greetings == SOON.max_attempts


async def test_closing_the_client_ends_the_wait_for_another_attempt() -> None:
    fake = FakeCoordinator(Flaky(1, errors.ResourceExhaustedError("busy", retry_after_s=20.0)))
    with serving(fake) as address:
        async with client_of(address) as client:
            events = client.generate("x")
            assert isinstance(await anext(events), Waiting)
            await client.close()
            with pytest.raises(errors.CancelledError):
                await anext(events)


def test_the_synchronous_client_tries_again_too() -> None:
    fake = FakeCoordinator(Flaky(2, PASSING))
    with serving(fake) as address, Client(address, retries=SOON, rng=random.Random(1)) as client:
        assert client.complete("x").text == TEXT
    assert len(fake.requests) == 3


def test_one_attempt_is_one_attempt() -> None:
    fake = FakeCoordinator(Flaky(1, PASSING))
    with serving(fake) as address, Client(address, retries=Retries(max_attempts=1)) as client:
        with pytest.raises(errors.UnavailableError):
            client.complete("x")
        assert client.complete("x").text == TEXT


def test_the_first_token_counts_as_success() -> None:
    """Or a client that streams for hours would never get its budget back."""
    events: list[Event] = [started(), chunk(0, [10], "All")]
    fake = FakeCoordinator(Flaky(1, *events, 30.0))
    with serving(fake) as address, Client(address, retries=Retries(bucket_refill=1.0)) as client:
        budget = client._client._budget
        budget.failed()
        stream = client.generate("x")
        assert [type(next(stream)) for _ in range(2)] == [Started, Chunk]
        assert budget._tokens == Retries().bucket_tokens
        stream.close()
