"""AsyncClient and everything that can go wrong: each a typed error, none of them a wait without end."""

import asyncio
import socket
import time
from collections.abc import Iterable
from contextlib import aclosing

import pytest

from client.fake_coordinator import Event, FakeCoordinator, chunk, example_swarm, finished, serving, started, whole
from osai.client import AsyncClient, Started, Timeouts
from osai.core import errors
from osai.proto import client_pb2, common_pb2

QUICK = Timeouts(connect_s=0.3, call_s=0.3, first_token_s=0.3, next_token_s=0.3)


async def test_another_protocol_version_is_refused_here() -> None:
    theirs = common_pb2.Hello(protocol_version=99, software="osai/99")
    fake = FakeCoordinator(greeting=theirs)
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            with pytest.raises(errors.ProtocolMismatchError, match="osai/99 speaks protocol 99"):
                await client.complete("x")
    assert not fake.requests


async def test_refusal_by_the_coordinator_is_the_same_error() -> None:
    with serving(FakeCoordinator(greeting=errors.ProtocolMismatchError("too old"))) as address:
        async with AsyncClient(address) as client:
            with pytest.raises(errors.ProtocolMismatchError, match="too old"):
                await client.swarm()


@pytest.mark.parametrize("kind", [errors.UnauthenticatedError, errors.ForbiddenError, errors.ProtocolMismatchError])
async def test_where_one_coordinator_refuses_the_next_is_asked(kind: type[errors.OsaiError]) -> None:
    refusing, other = FakeCoordinator(greeting=kind("not you")), FakeCoordinator(swarm=example_swarm())
    with serving(refusing) as first, serving(other) as second:
        async with AsyncClient((first, second)) as client:
            assert (await client.swarm()).nodes
            before = refusing.num_greetings
            assert await client.models()
            assert refusing.num_greetings == before == 1  # whoever answered last is asked first


async def test_where_all_refuse_the_refusal_is_what_is_raised() -> None:
    with serving(FakeCoordinator(greeting=errors.ForbiddenError("not you"))) as first:
        async with AsyncClient((first, "127.0.0.1:1"), timeouts=QUICK) as client:
            with pytest.raises(errors.ForbiddenError, match="not you"):
                await client.models()


async def test_typed_error_in_mid_stream_ends_it() -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Event | errors.OsaiError]:
        yield from list(whole(request))[:3]
        yield errors.UnavailableError("node-1 was lost", subject="node-1")

    with serving(FakeCoordinator(script)) as address:
        async with AsyncClient(address) as client:
            events = client.generate("x")
            seen = [await anext(events) for _ in range(3)]
            with pytest.raises(errors.UnavailableError, match="node-1 was lost") as caught:
                await anext(events)
    assert caught.value.subject == "node-1"
    assert isinstance(seen[0], Started)


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([], errors.UnavailableError),
        ([started()], errors.UnavailableError),
        ([started(), chunk(0, [1], "a")], errors.UnavailableError),
        ([chunk(0, [1], "a")], errors.BadFrameError),
        ([started(), started()], errors.BadFrameError),
        ([started(), chunk(1, [1], "a")], errors.BadFrameError),
        ([started(), chunk(0, [1], "a"), chunk(0, [1], "a")], errors.BadFrameError),
        ([started(), chunk(0, [1], "a"), finished(2)], errors.BadFrameError),
        ([started(), finished(0), chunk(0, [1], "a")], errors.BadFrameError),
        ([started(), Event()], errors.BadFrameError),
        ([started(pipeline=[common_pb2.Stage(node_id="n")])], errors.BadFrameError),
        ([started(), finished(0, common_pb2.FINISH_REASON_UNSPECIFIED)], errors.BadFrameError),
    ],
)
async def test_truncated_or_garbled_stream_is_never_complete(
    events: list[Event], error: type[errors.OsaiError]
) -> None:
    with serving(FakeCoordinator(lambda _: events)) as address:
        async with AsyncClient(address, timeouts=Timeouts(resume_s=0)) as client:
            with pytest.raises(error):
                await client.complete("x")


@pytest.mark.parametrize("num_events", [0, 1, 3])
async def test_silence_ends_at_the_deadline(num_events: int) -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Event | float]:
        yield from list(whole(request))[:num_events]
        yield 30.0

    fake = FakeCoordinator(script)
    what = "next" if num_events > 1 else "first"
    with serving(fake) as address:
        async with AsyncClient(address, timeouts=QUICK) as client:
            begun = time.monotonic()
            with pytest.raises(errors.DeadlineExceededError, match=f"the {what} token within 0.3 s"):
                await client.complete("x")
            assert time.monotonic() - begun < 2
        assert await asyncio.to_thread(fake.gone.wait, 5)  # the coordinator was told


async def test_unanswered_greeting_ends_at_the_deadline() -> None:
    with serving(FakeCoordinator(greeting=1.0)) as address:
        async with AsyncClient(address, timeouts=QUICK) as client:
            with pytest.raises(errors.DeadlineExceededError, match="greeting"):
                await client.models()


async def test_nobody_there_is_unavailable_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        async with AsyncClient(address) as client:
            begun = time.monotonic()
            with pytest.raises(errors.UnavailableError, match=address):
                await client.complete("x")
    assert time.monotonic() - begun < 2


async def test_a_server_that_speaks_something_else_is_a_typed_error() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, AsyncClient(address) as client:
        with pytest.raises(errors.SwarmError, match=address):
            await client.complete("x")


@pytest.mark.parametrize("address", ["", "host", "7070", ":7070", "http://127.0.0.1:7070", "host:port"])
def test_bad_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="HOST:PORT"):
        AsyncClient(address)


@pytest.mark.parametrize("way", ["close", "cancel", "hang up"])
async def test_leaving_early_tells_the_coordinator(way: str) -> None:
    def script(request: client_pb2.GenerateRequest) -> Iterable[Event | float]:
        yield started()
        yield 30.0

    fake = FakeCoordinator(script)
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            if way == "close":
                async with aclosing(client.generate("x")) as events:
                    assert isinstance(await anext(events), Started)
            else:
                task = asyncio.create_task(client.complete("x"))
                assert await asyncio.to_thread(fake.arrived.wait, 5)
                if way == "cancel":
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    await client.close()
                    with pytest.raises(errors.CancelledError, match="closed"):
                        await task
            assert await asyncio.to_thread(fake.gone.wait, 5)
