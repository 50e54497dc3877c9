"""Every method of every service, on a real server: who is let in, who is not, and whose calls are ended."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from osai.core import gatekeeper
from osai.core.admission import Role
from osai.core.admission.access import METHODS
from osai.core.admission.revocation import LIST_LIFE_S
from osai.core.errors import OsaiError, TrustError
from osai.core.gatekeeper import Gatekeeper
from osai.core.member_channel import member_channel
from osai.core.member_tls import MemberTls
from osai.core.rpc import bind, error_of, insecure_channel, make_server
from osai.proto import admission_pb2, client_pb2, control_pb2, edge_pb2, weights_pb2
from private.swarm_members import PrivateSwarm

FILES: tuple[Any, ...] = (  # two kinds of descriptors to mypy
    admission_pb2.DESCRIPTOR,
    client_pb2.DESCRIPTOR,
    control_pb2.DESCRIPTOR,
    edge_pb2.DESCRIPTOR,
    weights_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
)


def methods() -> Iterator[str]:
    for file in FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}"


class Everything(grpc.GenericRpcHandler):
    """Answers any method, however it streams, until `held` is set with nothing more."""

    def __init__(self) -> None:
        self.num_running = 0
        self.held = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401 - a generic type to mypy alone
        async def answer(_: Any, context: Any) -> None:  # noqa: ANN401
            self.num_running += 1
            try:
                await context.write(b"in")
                if details.method.endswith("Link"):
                    await self.held.wait()
            finally:
                self.num_running -= 1

        return grpc.stream_stream_rpc_method_handler(answer)


@asynccontextmanager
async def serving(tls: MemberTls, *, for_joiners: bool = False) -> AsyncIterator[tuple[str, Everything]]:
    server = make_server(interceptors=[Gatekeeper(tls, for_joiners=for_joiners)])
    everything = Everything()
    server.add_generic_rpc_handlers((everything,))
    credentials = tls.joiner_credentials() if for_joiners else tls.server_credentials()
    port = bind(server, "127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", everything
    finally:
        await server.stop(None)


async def ask(channel: grpc.aio.Channel, method: str) -> OsaiError | None:
    """Call a method; why it was refused, None where it was let in."""
    call: Any = channel.stream_stream(method)()
    try:
        async with asyncio.timeout(10):
            answer = await call.read()
            await call.done_writing()
    except grpc.aio.AioRpcError as e:
        return error_of(e)
    finally:
        call.cancel()
    assert answer == b"in"
    return None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


def test_every_method_that_is_served_is_in_the_table() -> None:
    assert set(methods()) <= set(METHODS)


async def test_each_role_gets_into_its_own_methods_and_into_no_other() -> None:
    swarm = PrivateSwarm()
    callers = {role: swarm.join(role) for role in Role}
    async with serving(swarm.join(Role.COORDINATOR)) as (address, _):
        for role, method in product(Role, (*methods(), "/osai.v1.Coordinator/Unheard", "/other.Service/Call")):
            async with member_channel(address, callers[role], Role.COORDINATOR) as channel:
                refusal = await ask(channel, method)
            allowed = role in METHODS.get(method, ())
            assert (refusal is None) is allowed, f"{role} {method}: {refusal}"
            assert allowed or isinstance(refusal, TrustError)


async def test_without_a_certificate_of_the_swarm_no_method_is_reached() -> None:
    swarm, foreign = PrivateSwarm(), PrivateSwarm()
    stranger = foreign.join(Role.COORDINATOR)
    async with serving(swarm.join(Role.COORDINATOR)) as (address, everything):
        bare = grpc.ssl_channel_credentials(swarm.authority.anchor.pem)
        name = (("grpc.ssl_target_name_override", "coordinator.osai.internal"),)
        for method in methods():
            for channel in (
                insecure_channel(address),
                grpc.aio.secure_channel(address, bare, options=name),
                grpc.aio.secure_channel(address, stranger.channel_credentials(), options=name),
            ):
                async with channel:
                    assert await ask(channel, method) is not None
        assert everything.num_running == 0


async def test_joiners_reach_enrolment_and_nothing_else() -> None:
    swarm = PrivateSwarm()
    async with serving(swarm.join(Role.COORDINATOR), for_joiners=True) as (address, _):
        credentials = grpc.ssl_channel_credentials(swarm.authority.anchor.pem)
        options = (("grpc.ssl_target_name_override", "join.osai.internal"),)
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            reached = {method for method in methods() if await ask(channel, method) is None}
    assert reached == {"/osai.v1.Admission/Enrol"}


@asynccontextmanager
async def open_link(address: str, tls: MemberTls) -> AsyncIterator[Awaitable[Any]]:
    """A call that lasts; what it waits for."""
    async with member_channel(address, tls, Role.COORDINATOR) as channel:
        call: Any = channel.stream_stream("/osai.v1.Edge/Link")()
        async with asyncio.timeout(10):
            assert await call.read() == b"in"
        yield asyncio.ensure_future(call.read())


async def test_a_revoked_members_open_call_ends_at_once_and_the_others_go_on() -> None:
    swarm = PrivateSwarm()
    server, bad, good = (swarm.join(role) for role in (Role.COORDINATOR, Role.NODE, Role.NODE))
    async with (
        serving(server) as (address, everything),
        open_link(address, bad) as ending,
        open_link(address, good) as lasting,
    ):
        assert server.revoke(swarm.revoked(bad))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(asyncio.ensure_future(ending), 5)
        assert "revoked" in error_of(caught.value).message
        await until(lambda: everything.num_running == 1)
        assert not asyncio.ensure_future(lasting).done()
        async with member_channel(address, bad, Role.COORDINATOR) as channel:
            assert isinstance(await ask(channel, "/osai.v1.Edge/Link"), TrustError)


async def test_a_member_whose_own_list_has_ended_ends_the_calls_that_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatekeeper, "LOOK_S", 0.05)
    swarm = PrivateSwarm()
    server, node = swarm.join(Role.COORDINATOR), swarm.join(Role.NODE)
    async with serving(server) as (address, _), open_link(address, node) as ending:
        swarm.clock.ahead_s = LIST_LIFE_S
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(asyncio.ensure_future(ending), 10)
        assert "list has ended" in error_of(caught.value).message


async def test_a_certificate_that_is_over_opens_no_call_though_it_was_good_before() -> None:
    swarm = PrivateSwarm()
    server, node = swarm.join(Role.COORDINATOR), swarm.join(Role.NODE)
    async with serving(server) as (address, _), member_channel(address, node, Role.COORDINATOR) as channel:
        assert await ask(channel, "/osai.v1.Edge/Link") is None
        swarm.clock.ahead_s = node.me.not_after_s - time.time() + 1.0
        refusal = await ask(channel, "/osai.v1.Edge/Link")
    assert isinstance(refusal, TrustError)
    assert "has expired" in refusal.message


async def test_a_renewed_certificate_is_shown_from_the_next_connection_on() -> None:
    swarm = PrivateSwarm()
    server, node = swarm.join(Role.COORDINATOR), swarm.join(Role.NODE)
    async with serving(server) as (address, _):
        before = await asyncio.to_thread(ssl.get_server_certificate, address_of(address))
        server.renew(swarm.join(Role.COORDINATOR).credentials)
        after = await asyncio.to_thread(ssl.get_server_certificate, address_of(address))
        assert before != after
        async with member_channel(address, node, Role.COORDINATOR) as channel:
            assert await ask(channel, "/osai.v1.Control/Membership") is None


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
