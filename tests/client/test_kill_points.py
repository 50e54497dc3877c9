"""Wherever a coordinator dies, and however often: every token comes once, and the text is whole."""

import asyncio
from collections.abc import Iterable, Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.fake_coordinator import STAGES, FakeCoordinator, Script, Step, serving
from client.long_generation import LOST, NUM_EVENTS, check_whole, collected, dying, rest
from osai.client import AsyncClient, Finished, GenerationEvent, Rerouted
from osai.proto import client_pb2


@pytest.mark.parametrize("num_events", [0, 1, 2, 7, NUM_EVENTS - 1, NUM_EVENTS])
@pytest.mark.parametrize("status", [LOST, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN])
async def test_another_coordinator_goes_on(num_events: int, status: grpc.StatusCode) -> None:
    first, second = FakeCoordinator(dying(num_events, status)), FakeCoordinator(rest)
    with serving(first) as here, serving(second) as there:
        async with AsyncClient([here, there]) as client:
            events = await collected(client)
            check_whole(events)
            assert client.address == (here if num_events == NUM_EVENTS else there)
    moves = [event for event in events if isinstance(event, Rerouted)]
    last = events[-1]
    assert isinstance(last, Finished)
    if num_events == 0:  # nothing was shown: it is simply asked again
        assert second.requests == first.requests
        assert (moves, last.num_recoveries) == ([], 0)
    elif num_events == NUM_EVENTS:  # it went when all was said
        assert (moves, second.requests) == ([], [])
    else:
        (request,) = second.requests
        resume = request.resume
        assert (resume.session_id, resume.attempt, resume.seed) == (f"{5:016x}", 1, 7)
        assert list(resume.pipeline) == list(STAGES)
        assert len(resume.tokens) == num_events - 1
        assert (request.prompt, request.model_id) == ("x", "m")  # the model by name: others may serve several
        assert (len(moves), last.num_recoveries) == (1, 1)
        assert "the connection broke" in moves[0].reason


class Switched(FakeCoordinator):
    """One server for many examples."""

    def play(self, script: Script) -> None:
        self._script = script
        self.requests.clear()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Switched, Switched, list[str]]]:
    first, second = Switched(), Switched()
    with serving(first) as here, serving(second) as there:
        yield first, second, [here, there]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(0, NUM_EVENTS), max_size=6))
def test_whatever_the_kill_points_every_token_comes_once(
    pair: tuple[Switched, Switched, list[str]], kills: list[int]
) -> None:
    """`kills`: after so many events the coordinator of each attempt dies, whichever has it."""
    first, second, addresses = pair
    left = list(kills)

    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        return dying(left.pop(0))(request) if left else rest(request)

    first.play(script)
    second.play(script)

    async def run() -> list[GenerationEvent]:
        async with AsyncClient(addresses) as client:
            return await collected(client)

    events = asyncio.run(run())
    check_whole(events)
