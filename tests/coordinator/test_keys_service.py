"""Keys before gRPC's front door: who gets in, for what, how much, and how it ends."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from coordinator.keys_world import Keys, bearer
from coordinator.test_client_service import Stub
from gateway.fake_generations import (
    HANG,
    MODEL,
    FakeGenerations,
    chunk,
    example_model,
    example_swarm,
    finished,
    scripted,
    started,
    token,
)
from osai.coordinator.client_service import ClientService
from osai.coordinator.keys.api_key import Scope
from osai.coordinator.keys.key_text import NONE_SENT, NOT_VALID, KeyText
from osai.core import errors
from osai.core.errors import OsaiError, ResourceExhaustedError, from_proto
from osai.core.protocol import hello
from osai.core.rpc import bind, error_of, insecure_channel, make_server
from osai.proto import client_pb2, client_pb2_grpc, common_pb2

Request = client_pb2.GenerateRequest
SOON_S = 3.0


@asynccontextmanager
async def serving(generations: FakeGenerations, keys: Keys | None) -> AsyncIterator[Stub]:
    """A client's stub of a coordinator that asks for keys."""
    server = make_server()
    service = ClientService("c" * 32, generations, lambda: 7, keys.keyring if keys else None)
    client_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
    port = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        async with insecure_channel(f"127.0.0.1:{port}") as channel:
            yield client_pb2_grpc.CoordinatorStub(channel)
    finally:
        await server.stop(None)


def shown(text: KeyText | None) -> Any:  # noqa: ANN401 - gRPC's metadata
    return (("authorization", bearer(text)),) if text else None


async def generate(stub: Stub, text: KeyText | None, **fields: Any) -> list[str | None]:  # noqa: ANN401 - of any field
    request = Request(prompt="x", **fields)
    return [event.WhichOneof("kind") async for event in stub.Generate(request, timeout=5, metadata=shown(text))]


async def failure(work: Any) -> tuple[OsaiError, grpc.StatusCode]:  # noqa: ANN401 - any call
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return error_of(caught.value), caught.value.code()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not holds():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


async def test_a_key_opens_all_that_it_may() -> None:
    keys, fake = Keys(), FakeGenerations()
    text = keys.make()
    async with serving(fake, keys) as stub:
        assert (await generate(stub, text))[-1] == "finished"
        models = await stub.ListModels(client_pb2.ListModelsRequest(), metadata=shown(text))
        swarm = await stub.GetSwarm(client_pb2.GetSwarmRequest(), metadata=shown(text))
    assert len(models.models) == len(swarm.models) == 1
    assert len(swarm.nodes) == 3
    assert fake.requests[0].model_id == MODEL  # the only one, which the key was checked for


async def test_without_a_good_key_only_the_greeting_is_open() -> None:
    keys, fake = Keys(), FakeGenerations()
    text = keys.make()
    wrong = KeyText(key_id=text.key_id, secret=b"w" * 32)
    async with serving(fake, keys) as stub:
        assert (await stub.Greet(hello())).peer_id == "c" * 32
        for shown_text, words in ((None, NONE_SENT), (wrong, NOT_VALID)):
            for call in (
                generate(stub, shown_text),
                stub.ListModels(client_pb2.ListModelsRequest(), metadata=shown(shown_text)),
                stub.GetSwarm(client_pb2.GetSwarmRequest(), metadata=shown(shown_text)),
            ):
                error, status = await failure(call)
                assert (type(error), error.message) == (errors.UnauthenticatedError, words)
                assert status is grpc.StatusCode.UNAUTHENTICATED
    assert fake.requests == []


async def test_without_keys_nothing_is_asked_for() -> None:
    async with serving(FakeGenerations(), None) as stub:
        assert (await generate(stub, None))[-1] == "finished"
        assert (await generate(stub, KeyText(key_id="0" * 16, secret=b"w" * 32)))[-1] == "finished"
        assert (await stub.GetSwarm(client_pb2.GetSwarmRequest())).nodes


@pytest.mark.parametrize("scope", Scope)
async def test_each_call_has_its_scope(scope: Scope) -> None:
    keys = Keys()
    text = keys.make(scope)
    async with serving(FakeGenerations(), keys) as stub:
        calls = {
            Scope.GENERATE: generate(stub, text),
            Scope.MODELS: stub.ListModels(client_pb2.ListModelsRequest(), metadata=shown(text)),
            Scope.SWARM: stub.GetSwarm(client_pb2.GetSwarmRequest(), metadata=shown(text)),
        }
        allowed: Any = calls.pop(scope)
        assert await allowed
        for call in calls.values():
            error, status = await failure(call)
            assert isinstance(error, errors.ForbiddenError)
            assert text.key_id in error.message
            assert status is grpc.StatusCode.PERMISSION_DENIED


async def test_a_key_sees_and_uses_its_own_models_alone() -> None:
    keys = Keys()
    text = keys.make(models=("org/*",))
    view = example_swarm(models=(example_model(), example_model("org/a")))
    fake = FakeGenerations(view=view, script=lambda r: [finished()] if r.model_id == "org/a" else [started()])
    async with serving(fake, keys) as stub:
        for model in (MODEL, "nobody/serves-it"):
            error, _ = await failure(generate(stub, text, model_id=model))
            assert (type(error), model in error.message) == (errors.ForbiddenError, True)
        assert fake.requests == []
        assert await generate(stub, text, model_id="org/a") == ["finished"]
        models = await stub.ListModels(client_pb2.ListModelsRequest(), metadata=shown(text))
        swarm = await stub.GetSwarm(client_pb2.GetSwarmRequest(), metadata=shown(text))
        error, _ = await failure(generate(stub, text))  # whatever the coordinator takes that for
        assert isinstance(error, errors.ForbiddenError)
    assert [model.model_id for model in (*models.models, *swarm.models)] == ["org/a", "org/a"]


async def test_the_model_that_starts_is_checked_too() -> None:
    keys = Keys()
    text = keys.make(models=("org/*",))
    fake = scripted(started(), chunk(0, "a"), finished())  # of MODEL, whatever was asked for
    async with serving(fake, keys) as stub:
        error, _ = await failure(generate(stub, text, model_id="org/a"))
    assert isinstance(error, errors.ForbiddenError)
    assert fake.num_cancelled == 1


async def test_a_quota_that_is_used_up_says_when_it_is_not() -> None:
    keys = Keys()
    text, other = keys.make(requests_per_minute=2), keys.make()
    async with serving(FakeGenerations(), keys) as stub:
        for _ in range(2):
            await generate(stub, text)
        error, status = await failure(generate(stub, text))
        assert isinstance(error, ResourceExhaustedError)
        assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.subject == text.key_id
        assert 0 < error.retry_after_s < 62
        await generate(stub, other)
        keys.clocks.now_s += error.retry_after_s - 0.5
        await failure(generate(stub, text))
        keys.clocks.now_s += 0.5
        await generate(stub, text)


async def test_tokens_are_counted_as_they_really_come() -> None:
    keys = Keys()
    text = keys.make(tokens_per_minute=22)  # a generation has 4 of the prompt and 3 more
    async with serving(FakeGenerations(), keys) as stub:
        for _ in range(2):
            await generate(stub, text, max_tokens=10)
        error, _ = await failure(generate(stub, text, max_tokens=10))
        assert isinstance(error, ResourceExhaustedError)
        await generate(stub, text, max_tokens=3)
        error, _ = await failure(generate(stub, text, max_tokens=100))
        assert isinstance(error, errors.InvalidRequestError)
        assert "22 tokens a minute" in error.message


async def test_one_that_named_no_max_tokens_ends_where_the_quota_does() -> None:
    keys = Keys()
    text = keys.make(tokens_per_minute=300)
    many = [chunk(2 * i, "ab", token("a"), token("b")) for i in range(200)]
    fake = FakeGenerations(script=lambda r: [started(), *([finished()] if r.max_tokens else many)])
    got = list[client_pb2.GenerateEvent]()

    async def collect(stub: Stub) -> None:
        async for event in stub.Generate(Request(prompt="x"), timeout=5, metadata=shown(text)):
            got.append(event)

    async with serving(fake, keys) as stub:
        error, _ = await failure(collect(stub))
        assert isinstance(error, ResourceExhaustedError)
        assert sum(len(event.chunk.tokens) for event in got) + 4 == 300
        assert fake.num_cancelled == 1
        keys.clocks.now_s += 61
        assert await generate(stub, text, max_tokens=290) == ["started", "finished"]  # nothing is held back


async def test_generations_at_once_are_bounded_and_come_back_when_a_client_leaves() -> None:
    keys = Keys()
    text = keys.make(max_concurrent=1)
    fake = FakeGenerations(script=lambda r: [started(), HANG] if r.max_tokens == 1 else [started(), finished()])
    async with serving(fake, keys) as stub:
        call = stub.Generate(Request(prompt="x", max_tokens=1), metadata=shown(text))
        await call.read()
        error, _ = await failure(generate(stub, text))
        assert isinstance(error, ResourceExhaustedError)
        call.cancel()
        await until(lambda: not keys.keyring._runs)
        assert fake.num_cancelled == 1
        assert await generate(stub, text) == ["started", "finished"]


@pytest.mark.parametrize("num_events", [0, 1])
@pytest.mark.parametrize("how", ["revoked", "has expired", "deleted"])
async def test_what_a_key_runs_ends_with_it(how: str, num_events: int) -> None:
    keys = Keys()
    text, other = keys.make(life_s=60), keys.make()
    fake = scripted(*[started()][:num_events], HANG)
    async with serving(fake, keys) as stub:
        calls = [stub.Generate(Request(prompt="x"), metadata=shown(each)) for each in (text, other)]
        for call in calls * num_events:
            await call.read()
        await until(lambda: len(fake.requests) == 2)
        match how:
            case "revoked":
                keys.revoke(text)
            case "deleted":
                keys.keyring.replace(type(keys.book)(tuple(k for k in keys.book.keys if k.key_id != text.key_id)))
            case _:
                keys.clocks.now_s += 61
        for _ in range(3):  # as the watch does, also while it is ending
            keys.keyring.look()
        async with asyncio.timeout(SOON_S):
            error, status = await failure(calls[0].read())
        assert isinstance(error, errors.UnauthenticatedError)
        assert how in error.message
        assert status is grpc.StatusCode.UNAUTHENTICATED
        assert fake.num_cancelled == 1  # the other one goes on
        assert not calls[1].done()
        error, _ = await failure(generate(stub, text))
        assert isinstance(error, errors.UnauthenticatedError)
        calls[1].cancel()


async def test_no_secret_gets_into_a_log_or_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = Keys()
    text, revoked = keys.make(Scope.SWARM), keys.make()
    keys.revoke(revoked)
    wrong = KeyText(key_id=text.key_id, secret=b"w" * 32)
    async with serving(scripted(KeyError("a bug")), keys) as stub:
        said = [(await failure(generate(stub, each)))[0].message for each in (text, revoked, wrong)]
        bug, _ = await failure(generate(stub, keys.make()))
        assert isinstance(bug, errors.InternalError)
    assert text.key_id in caplog.text
    for each in (text, revoked, wrong):
        assert each.secret.hex() not in caplog.text + "".join(said)


@pytest.mark.parametrize("wait_s", [0.0, 0.5, 86_400.0])
def test_when_to_come_again_crosses_the_wire(wait_s: float) -> None:
    error = from_proto(ResourceExhaustedError("full", retry_after_s=wait_s).to_proto())
    assert isinstance(error, ResourceExhaustedError)
    assert error.retry_after_s == wait_s


@pytest.mark.parametrize("wait_s", [-1.0, math.inf, math.nan])
def test_a_peer_s_nonsense_is_no_time(wait_s: float) -> None:
    wire = common_pb2.Error(code=common_pb2.ERROR_CODE_RESOURCE_EXHAUSTED, retry_after_s=wait_s)
    error = from_proto(wire)
    assert isinstance(error, ResourceExhaustedError)
    assert error.retry_after_s == 0.0
