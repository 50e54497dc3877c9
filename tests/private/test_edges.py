"""A node's port in a private swarm: links and their bare streams between members, and nobody else's."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from osai.core.admission import Role, server_name
from osai.core.errors import ForbiddenError, OsaiError, TrustError, UnavailableError
from osai.core.frame_stream import PREFIX, PREFIX_TLS, READY, TICKET_BYTES, FrameSender, StreamTls, dial_stream
from osai.core.gatekeeper import Gatekeeper
from osai.core.link import EdgeLink, Outbox, edge_link
from osai.core.link_pool import LinkPool
from osai.core.member_tls import MemberTls
from osai.core.rpc import EDGE_MAX_BYTES, make_server
from osai.node.edge_port import EdgePort
from osai.node.edge_service import EdgeService
from osai.node.ring import Ring
from osai.proto import edge_pb2, edge_pb2_grpc
from private.swarm_members import PrivateSwarm

Message = edge_pb2.LinkMessage


def probe(number: int) -> Message:
    return Message(probe=edge_pb2.Probe(sent_ns=number))


@dataclass
class Ears:
    """What EdgeService uses of a ring: keeps what comes and from whom, and echoes it."""

    received: list[tuple[str, Message]] = field(default_factory=list)
    peers: dict[int, tuple[str, Outbox[Message]]] = field(default_factory=dict)

    def attach(self, peer: str, member: Any = None) -> tuple[int, Outbox[Message]]:  # noqa: ANN401
        number = len(self.peers) + 1
        self.peers[number] = member.member_id, Outbox(peer, 4096)
        return number, self.peers[number][1]

    def detach(self, owner: int) -> None:
        self.peers[owner] = ("", self.peers[owner][1])

    async def receive(self, owner: int, message: Message) -> None:
        self.received.append((self.peers[owner][0], message))
        self.peers[owner][1].put(Message(echo=message.probe))


@dataclass
class Edge:
    tls: MemberTls
    ears: Ears
    port: EdgePort

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port.port}"


@asynccontextmanager
async def edge(tls: MemberTls) -> AsyncIterator[Edge]:
    server, ears = make_server(max_message_bytes=EDGE_MAX_BYTES, interceptors=[Gatekeeper(tls)]), Ears()
    async with EdgePort.listening(server, "127.0.0.1:0", tls) as port:
        service = EdgeService(tls.me.member_id, cast("Ring", ears), port, tls)
        edge_pb2_grpc.add_EdgeServicer_to_server(service, server)
        await server.start()
        try:
            yield Edge(tls, ears, port)
        finally:
            await server.stop(None)


@asynccontextmanager
async def dialled(
    it: Edge, tls: MemberTls, *, peer: str = "", me: str = ""
) -> AsyncIterator[tuple[EdgeLink, "asyncio.Task[OsaiError]", list[Message]]]:
    got: list[Message] = []
    link = edge_link(peer or it.tls.me.member_id, it.address, me or tls.me.member_id, got.append, tls=tls)
    running = asyncio.create_task(link.run())
    try:
        yield link, running, got
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - links report by callback
            await asyncio.sleep(0.005)


async def test_members_exchange_messages_in_order_over_a_stream_of_their_own() -> None:
    swarm = PrivateSwarm()
    node, other = swarm.join(Role.NODE), swarm.join(Role.NODE)
    async with edge(node) as it, dialled(it, other) as (link, _, got):
        for i in range(100):
            link.send(probe(i))  # some go with the ticket, in one packet: none is lost
        await until(lambda: link._stream is not None)
        for i in range(100, 300):
            link.send(probe(i))
        await until(lambda: len(got) == 300)
        assert [m.echo.sent_ns for m in got] == list(range(300))
        assert {peer for peer, _ in it.ears.received} == {other.me.member_id}


async def test_a_node_at_anothers_address_is_not_taken_for_it() -> None:
    swarm = PrivateSwarm()
    node, other, expected = (swarm.join(Role.NODE) for _ in range(3))
    async with edge(node) as it, dialled(it, other, peer=expected.me.member_id) as (_, running, _):
        assert isinstance(await asyncio.wait_for(running, 15), UnavailableError)
    assert not it.ears.received


async def test_a_member_can_not_greet_as_another() -> None:
    swarm = PrivateSwarm()
    node, other = swarm.join(Role.NODE), swarm.join(Role.NODE)
    async with edge(node) as it, dialled(it, other, me="ab" * 16) as (_, running, _):
        error = await asyncio.wait_for(running, 10)
    assert isinstance(error, TrustError)
    assert "greets as" in error.message


@pytest.mark.parametrize("role", [Role.CLIENT, None])
async def test_clients_and_members_of_other_swarms_get_no_link(role: Role | None) -> None:
    swarm = PrivateSwarm()
    stranger = swarm.join(role) if role else PrivateSwarm().join(Role.COORDINATOR)
    async with edge(swarm.join(Role.NODE)) as it, dialled(it, stranger) as (_, running, _):
        error = await asyncio.wait_for(running, 15)
    assert isinstance(error, TrustError if role else UnavailableError)
    assert not it.ears.received


async def test_a_link_to_a_revoked_member_ends_on_both_sides_and_is_not_dialled_again() -> None:
    swarm = PrivateSwarm()
    node, other = swarm.join(Role.NODE), swarm.join(Role.NODE)
    lost: list[tuple[str, OsaiError]] = []
    pool = LinkPool(other.me.member_id, lambda *_: None, lambda *loss: lost.append(loss), tls=other)
    async with edge(node) as it, pool:
        wire = pool.wire(node.me.member_id, it.address)
        wire.send(probe(1))
        await until(lambda: len(it.ears.received) == 1)
        other.revoke(swarm.revoked(node))
        await until(lambda: bool(lost))
        assert "revoked" in lost[0][1].message
        with pytest.raises(TrustError, match="revoked"):
            pool.wire(node.me.member_id, it.address)


async def test_a_node_that_says_what_is_not_its_to_say_loses_the_link() -> None:
    swarm = PrivateSwarm()
    node, coordinator = swarm.join(Role.NODE), swarm.join(Role.COORDINATOR)
    async with edge(node) as it, dialled(it, coordinator) as (link, running, got):
        link.send(probe(1))  # the ears echo it, which no node does to a coordinator
        assert isinstance(await asyncio.wait_for(running, 10), ForbiddenError)
        assert not got


async def test_a_revoked_dialler_is_cut_off() -> None:
    swarm = PrivateSwarm()
    node, other = swarm.join(Role.NODE), swarm.join(Role.NODE)
    async with edge(node) as it, dialled(it, other) as (link, running, _):
        link.send(probe(1))
        await until(lambda: len(it.ears.received) == 1)
        node.revoke(swarm.revoked(other))
        error = await asyncio.wait_for(running, 5)
        assert isinstance(error, TrustError)
        assert "revoked" in error.message


async def closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(10):
        assert await reader.read() == b""


@pytest.mark.parametrize(
    "first", [PREFIX + bytes(TICKET_BYTES), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\xff\xff"]
)
async def test_what_is_not_encrypted_is_ended_at_once(first: bytes) -> None:
    async with edge(PrivateSwarm().join(Role.NODE)) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port.port)
        writer.write(first)
        await closed(reader)
        writer.close()


async def test_a_dialler_of_an_old_tls_is_refused_before_any_server_sees_it() -> None:
    swarm = PrivateSwarm()
    context = swarm.join(Role.NODE).context(is_server=False)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with edge(swarm.join(Role.NODE)) as it:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(
                "127.0.0.1", it.port.port, ssl=context, server_hostname=server_name(Role.NODE)
            )


async def steal(it: Edge, thief: MemberTls, ticket: bytes) -> bool:
    """Whether a stream with a ticket is let in."""
    sender: FrameSender[Message] = FrameSender(ticket)
    tls = StreamTls(context=thief.context(is_server=False), server_name=server_name(Role.NODE))
    await dial_stream(it.address, sender, 5.0, tls)
    try:
        async with asyncio.timeout(0.5):
            await sender.lost
    except TimeoutError:
        return True
    finally:
        sender.close()
    return False


async def test_a_ticket_is_its_members_alone_and_good_once() -> None:
    swarm = PrivateSwarm()
    owner, thief = swarm.join(Role.NODE), swarm.join(Role.NODE)
    async with edge(swarm.join(Role.NODE)) as it:
        ticket, _ = it.port.offer(owner.me.member_id)
        assert not await steal(it, thief, ticket)
        assert await steal(it, owner, ticket)
        assert not await steal(it, owner, ticket)


async def test_a_stream_without_a_certificate_of_the_swarm_is_refused() -> None:
    swarm, foreign = PrivateSwarm(), PrivateSwarm()
    async with edge(swarm.join(Role.NODE)) as it:
        ticket, _ = it.port.offer("")
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.load_verify_locations(cadata=swarm.authority.anchor.pem.decode())
        for context in (bare, foreign.join(Role.NODE).context(is_server=False)):
            sender: FrameSender[Message] = FrameSender(ticket)
            try:
                await dial_stream(
                    it.address, sender, 5.0, StreamTls(context=context, server_name=server_name(Role.NODE))
                )
            except UnavailableError:
                continue
            async with asyncio.timeout(5):
                await sender.lost  # TLS 1.3: the server's refusal comes after the client's last word


async def test_a_stream_that_stops_before_tls_holds_nothing_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osai.node.edge_port.TLS_DEADLINE_S", 0.2)
    async with edge(PrivateSwarm().join(Role.NODE)) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port.port)
        writer.write(PREFIX_TLS)
        async with asyncio.timeout(10):
            assert await reader.readexactly(1) == READY
        await closed(reader)
        writer.close()
        assert it.port.num_open == 0
