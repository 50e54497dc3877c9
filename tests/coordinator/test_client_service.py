"""The clients' service over loopback, before a coordinator that follows a script."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
import pytest

from gateway.fake_generations import (
    HANG,
    MODEL,
    STAGES,
    FakeGenerations,
    Step,
    chunk,
    example_swarm,
    finished,
    hello_world,
    scripted,
    started,
)
from osai.coordinator.api import ChatMessage, Rerouted, Waiting
from osai.coordinator.client_service import ClientService
from osai.coordinator.client_wire import write_event, write_models, write_swarm
from osai.core import errors
from osai.core.errors import OsaiError
from osai.core.protocol import PROTOCOL_VERSION
from osai.core.rpc import CLIENT_API_MAX_BYTES, bind, error_of, insecure_channel, make_server
from osai.proto import client_pb2, client_pb2_grpc, common_pb2

Request = client_pb2.GenerateRequest
Stub: TypeAlias = "client_pb2_grpc.CoordinatorAsyncStub"  # a name of the generated interface alone
SEED = 4711
BEGUN: tuple[Step, ...] = (started(), chunk(0, "a"))


@asynccontextmanager
async def serving(generations: FakeGenerations) -> AsyncIterator[Stub]:
    """A client's stub of a coordinator."""
    server = make_server()
    service = ClientService("c" * 32, generations, lambda: SEED)
    client_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
    port = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        async with insecure_channel(f"127.0.0.1:{port}", max_message_bytes=2 * CLIENT_API_MAX_BYTES) as channel:
            yield client_pb2_grpc.CoordinatorStub(channel)
    finally:
        await server.stop(None)


async def events(stub: Stub, request: Request) -> list[client_pb2.GenerateEvent]:
    return [event async for event in stub.Generate(request, timeout=5)]


async def failure(stub: Stub, request: Request) -> OsaiError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events(stub, request)
    return error_of(caught.value)


async def test_events_come_as_they_are_and_the_request_too() -> None:
    generations = FakeGenerations()
    async with serving(generations) as stub:
        turns = [client_pb2.ChatMessage(role="user", content="hi")]
        got = await events(stub, Request(model_id=MODEL, chat=client_pb2.Chat(messages=turns), max_tokens=3))
    (request,) = generations.requests
    assert got == [write_event(event) for event in hello_world(request)]  # type: ignore[arg-type]
    assert (request.model_id, request.prompt, request.max_tokens) == (
        MODEL,
        (ChatMessage(role="user", content="hi"),),
        3,
    )
    assert request.sampling.seed == SEED
    assert (generations.num_ended, generations.num_cancelled) == (1, 0)


async def test_events_are_not_held_back() -> None:
    async with serving(scripted(started(), chunk(0, "a"), HANG)) as stub:
        call = stub.Generate(Request(prompt="x"), timeout=5)
        assert await call.read() == write_event(started())
        assert await call.read() == write_event(chunk(0, "a"))
        call.cancel()


ERRORS = [
    errors.UnknownModelError("no such model"),
    errors.NotCoveredError("layers 2:4 have no node"),
    errors.ContextExceededError("too long"),
    errors.ResourceExhaustedError("full"),
    errors.UnavailableError("node lost", subject="n" * 32),
    errors.DeadlineExceededError("late"),
    errors.PeerError("confused"),
    errors.InternalError("broken"),
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("num_events", [0, 2])
async def test_errors_keep_their_type(error: OsaiError, num_events: int) -> None:
    async with serving(scripted(*BEGUN[:num_events], error)) as stub:
        call = stub.Generate(Request(prompt="x"), timeout=5)
        for _ in range(num_events):
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    told = error_of(caught.value)
    assert (told.code, told.message, told.subject) == (error.code, error.message, error.subject)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(), "the request has no prompt"),
        (Request(prompt="x", sampling=client_pb2.SamplingRequest(temperature=-1)), "temperature is -1"),
    ],
)
async def test_requests_that_can_not_be_read_reach_nobody(request_: Request, words: str) -> None:
    generations = FakeGenerations()
    async with serving(generations) as stub:
        error = await failure(stub, request_)
    assert isinstance(error, errors.InvalidRequestError)
    assert words in error.message
    assert generations.requests == []


async def test_a_request_over_the_limit_is_refused() -> None:
    generations = FakeGenerations()
    async with serving(generations) as stub:
        error = await failure(stub, Request(prompt="x" * (CLIENT_API_MAX_BYTES + 1)))
        assert isinstance(error, errors.ResourceExhaustedError)
        assert len(await events(stub, Request(prompt="x" * (CLIENT_API_MAX_BYTES // 2)))) == 5  # and it lives on
    assert len(generations.requests) == 1


async def test_a_failure_of_ours_is_told_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(scripted(started(), KeyError("secret"))) as stub:
        error = await failure(stub, Request(prompt="x"))
    assert isinstance(error, errors.InternalError)
    assert error.message == "the coordinator failed (KeyError); its log says more"
    assert "secret" in caplog.text


@pytest.mark.parametrize("num_events", [0, 1, 2])
async def test_a_cancelled_call_closes_the_generation(num_events: int) -> None:
    generations = scripted(*BEGUN[:num_events], HANG)
    async with serving(generations) as stub:
        call = stub.Generate(Request(prompt="x"), timeout=5)
        for _ in range(num_events):
            await call.read()
        await generations.asked.wait()
        call.cancel()
        await asyncio.wait_for(generations.closed.wait(), 1.0)
    assert (generations.num_cancelled, generations.num_ended) == (1, 0)


async def test_a_client_that_disappears_closes_the_generation(caplog: pytest.LogCaptureFixture) -> None:
    generations = scripted(started(), HANG)
    server = make_server()
    client_pb2_grpc.add_CoordinatorServicer_to_server(ClientService("c", generations, lambda: 1), server)
    port = bind(server, "127.0.0.1:0")
    await server.start()
    channel = insecure_channel(f"127.0.0.1:{port}")
    call = client_pb2_grpc.CoordinatorStub(channel).Generate(Request(prompt="x"))
    await call.read()
    await channel.close()
    await asyncio.wait_for(generations.closed.wait(), 1.0)
    assert generations.num_cancelled == 1
    await server.stop(None)
    assert not [entry for entry in caplog.records if entry.exc_info]


async def test_a_client_that_disappears_in_full_flow_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    generations = scripted(started(), *(chunk(i, "x" * 1000) for i in range(5000)))
    async with serving(generations) as stub:
        call = stub.Generate(Request(prompt="x"))
        for _ in range(10):
            await call.read()
        call.cancel()
        await asyncio.wait_for(generations.closed.wait(), 1.0)
    assert generations.num_cancelled == 1
    assert not [entry for entry in caplog.records if entry.exc_info]


async def test_a_deadline_of_the_client_closes_the_generation() -> None:
    generations = scripted(started(), HANG)
    async with serving(generations) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stub.Generate(Request(prompt="x"), timeout=0.2):
                pass
        assert isinstance(error_of(caught.value), errors.DeadlineExceededError)
        await asyncio.wait_for(generations.closed.wait(), 1.0)


async def test_greetings_are_exchanged_and_mismatches_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(FakeGenerations()) as stub:
        theirs = await stub.Greet(common_pb2.Hello(protocol_version=PROTOCOL_VERSION))
        assert (theirs.newest_version, theirs.peer_id) == (PROTOCOL_VERSION, "c" * 32)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Greet(common_pb2.Hello(protocol_version=99, software="osai/9"))
    assert isinstance(error_of(caught.value), errors.ProtocolMismatchError)
    for text in (error_of(caught.value).message, caplog.text):
        assert "osai/9 speaks protocol 99" in text


async def test_models_and_swarm_are_shown() -> None:
    async with serving(FakeGenerations()) as stub:
        view = example_swarm()
        assert list((await stub.ListModels(client_pb2.ListModelsRequest())).models) == write_models(view.models)
        assert await stub.GetSwarm(client_pb2.GetSwarmRequest()) == write_swarm(view)


async def test_finished_is_the_last_word() -> None:
    async with serving(scripted(started(), finished("stop"))) as stub:
        kinds = [event.WhichOneof("kind") for event in await events(stub, Request(prompt="x"))]
    assert kinds == ["started", "finished"]


@pytest.mark.parametrize("version", [0, 1, PROTOCOL_VERSION])
async def test_only_clients_that_know_them_get_notices(version: int) -> None:
    waiting, rerouted = Waiting(reason="no node", remaining_s=9.0), Rerouted(pipeline=STAGES, reason="l", pause_s=1.0)
    async with serving(scripted(waiting, started(), rerouted, chunk(0, "a"), waiting, finished("stop"))) as stub:
        got = await events(stub, Request(prompt="x", protocol_version=version))
    kinds = [event.WhichOneof("kind") for event in got]
    old = ["started", "chunk", "finished"]
    assert kinds == (old if version < 2 else ["waiting", "started", "rerouted", "chunk", "waiting", "finished"])


async def test_started_names_whom_the_session_can_go_on_with() -> None:
    view = example_swarm(coordinators=("here:1", "there:2"))
    async with serving(FakeGenerations(view=view)) as stub:
        first, *_ = await events(stub, Request(prompt="x"))
        swarm = await stub.GetSwarm(client_pb2.GetSwarmRequest())
    assert list(first.started.coordinators) == list(swarm.coordinators) == ["here:1", "there:2"]


async def test_a_resumption_reaches_the_coordinator_within_its_bounds() -> None:
    resume = client_pb2.Resume(
        session_id="0" * 15 + "a", attempt=3, seed=5, tokens=[common_pb2.SampledToken(token_id=4)] * 2047
    )
    generations = FakeGenerations()
    async with serving(generations) as stub:
        await events(stub, Request(model_id=MODEL, prompt="x", resume=resume))
        resume.tokens.add(token_id=4)
        error = await failure(stub, Request(model_id=MODEL, prompt="x", resume=resume))
    assert isinstance(error, errors.ContextExceededError)
    (request,) = generations.requests
    assert request.resume is not None
    assert (request.resume.session, request.resume.attempt, len(request.resume.tokens)) == (10, 3, 2047)
    assert request.sampling.seed == 5
