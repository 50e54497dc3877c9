"""The control service over loopback: joining, silence, mismatches, nodes that come back before they were missed."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest

from coordinator.builders import MODEL, model
from osai.coordinator import control_service
from osai.coordinator.catalog import Catalog, ServedModel
from osai.coordinator.control_service import HEARTBEAT_INTERVAL_S, ControlService
from osai.coordinator.join_budget import JoinBudget
from osai.coordinator.placing.registrar import Assignment, Registrar
from osai.coordinator.swarm import Swarm
from osai.coordinator.text import Tokenizer
from osai.core.errors import (
    AssignmentError,
    InvalidRequestError,
    OsaiError,
    PeerError,
    ProtocolMismatchError,
    UnavailableError,
    UnknownModelError,
    from_proto,
)
from osai.core.layers import LayerRange
from osai.core.link import control_link
from osai.core.protocol import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, hello
from osai.core.rpc import bind, error_of, insecure_channel, make_server
from osai.proto import common_pb2, control_pb2, control_pb2_grpc, record_pb2

Message = control_pb2.NodeMessage
NODE = "a" * 32
DHT = ("/ip4/127.0.0.1/tcp/1/p2p/x",)


@dataclass
class Coordinator:
    """A control service on loopback."""

    served: ServedModel
    swarm: Swarm
    address: str
    service: ControlService
    stop: Callable[[], Any]
    changes: list[None]  # one each time that a node has come to serve something else


@asynccontextmanager
async def coordinator(tokenizer: Tokenizer, budget: JoinBudget | None = None) -> AsyncIterator[Coordinator]:
    served, swarm = model(tokenizer), Swarm()
    changes: list[None] = []
    registrar = Registrar(Catalog([served]), swarm)
    service = ControlService("c" * 32, swarm, registrar, DHT, on_served=lambda: changes.append(None), budget=budget)
    server = make_server()
    control_pb2_grpc.add_ControlServicer_to_server(service, server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
    await server.start()
    try:
        yield Coordinator(served, swarm, address, service, lambda: server.stop(None), changes)
    finally:
        await server.stop(None)


def record(node_id: str = NODE, sequence: int = 1, **fields: Any) -> record_pb2.NodeRecord:  # noqa: ANN401 - of any field
    return record_pb2.NodeRecord(node_id=node_id, edge_address="h:1", sequence=sequence, state="joining", **fields)


def join(*wishes: control_pb2.Wish, sequence: int = 1, node_id: str = NODE, memory_bytes: int = 10**6) -> Message:
    wishes = wishes or (control_pb2.Wish(),)
    member = record(node_id, sequence)
    return Message(join=control_pb2.Join(record=member, wishes=wishes, dtype="float32", memory_bytes=memory_bytes))


def heartbeat(**fields: Any) -> Message:  # noqa: ANN401 - of any field
    return Message(heartbeat=control_pb2.Heartbeat(record=record(**fields)))


@dataclass
class Member:
    """A node's control stream, through the link that nodes use."""

    told: list[control_pb2.CoordinatorMessage] = field(default_factory=list)
    greeted: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def dial(self, address: str, node_id: str = NODE) -> None:
        self.link = control_link(address, node_id, self.heard, self.greeted.set)
        self.ended = asyncio.create_task(self.link.run())

    def heard(self, message: control_pb2.CoordinatorMessage) -> None:
        self.told.append(message)

    async def kinds(self, count: int) -> list[str | None]:
        """The kinds of what has been heard, once it is so many."""
        await until(lambda: len(self.told) >= count)
        return [message.WhichOneof("kind") for message in self.told]

    async def end(self) -> None:
        self.ended.cancel()
        await asyncio.wait([self.ended])


@asynccontextmanager
async def member(address: str, node_id: str = NODE) -> AsyncIterator[Member]:
    it = Member()
    it.dial(address, node_id)
    try:
        yield it
    finally:
        await it.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what a service believes has no event
            await asyncio.sleep(0.005)


async def test_a_node_is_welcomed_and_assigned_its_layers(tokenizer: Tokenizer) -> None:
    async with coordinator(tokenizer) as it, member(it.address) as node:
        node.link.send(join())
        assert await node.kinds(2) == ["welcome", "assignment"]
        welcome, assignment = node.told[0].welcome, node.told[1].assignment
        assert tuple(welcome.dht_addresses) == DHT
        assert welcome.heartbeat_interval_s == HEARTBEAT_INTERVAL_S
        assert (assignment.model_id, assignment.span.start, assignment.span.end) == (MODEL, 0, 6)
        assert assignment.manifest == it.served.manifest_file
        assert abs(assignment.assignment_id / 1000 - time.time()) < 60
        assert [seen.node_id for seen in it.swarm.nodes] == [NODE]


async def test_several_wishes_get_rising_assignment_ids(tokenizer: Tokenizer) -> None:
    async with coordinator(tokenizer) as it, member(it.address) as node, member(it.address, "b" * 32) as other:
        node.link.send(join(control_pb2.Wish(model_id=MODEL, span=common_pb2.LayerRange(start=2, end=4))))
        await node.kinds(2)
        assignment = node.told[1].assignment
        assert (assignment.span.start, assignment.span.end) == (2, 4)
        other.link.send(join(node_id="b" * 32))
        await other.kinds(2)
        assert other.told[1].assignment.assignment_id > assignment.assignment_id


async def test_heartbeats_bring_news_and_the_end_of_the_stream_a_loss(tokenizer: Tokenizer) -> None:
    async with coordinator(tokenizer) as it:
        async with member(it.address) as node:
            node.link.send(join(memory_bytes=316))  # three layers and the embedding
            node.link.send(heartbeat(sequence=2, num_sessions=5))
            await until(lambda: bool(it.swarm.nodes) and it.swarm.nodes[0].num_sessions == 5)
        await until(lambda: it.swarm.nodes == ())
        async with member(it.address, "b" * 32) as other:
            other.link.send(join(node_id="b" * 32))
            await other.kinds(2)
            assigned = other.told[1].assignment.span
            assert (assigned.start, assigned.end) == (0, 6)  # what the first had is free again


async def test_waiting_sessions_are_told_only_when_what_a_node_serves_has_changed(tokenizer: Tokenizer) -> None:
    def span(state: str) -> record_pb2.SpanRecord:
        layers = common_pb2.LayerRange(start=0, end=6)
        return record_pb2.SpanRecord(
            model_id=MODEL, span=layers, manifest_digest=b"d" * 32, dtype="float32", state=state
        )

    def is_seen(sequence: int) -> bool:
        return [seen.sequence for seen in it.swarm.nodes] == [sequence]

    async with coordinator(tokenizer) as it, member(it.address) as node:
        node.link.send(join())
        news = [("loading", 0), ("ready", 1), ("ready", 1), ("draining", 2)]
        for sequence, (state, num_changes) in enumerate(news, 2):
            node.link.send(heartbeat(sequence=sequence, spans=[span(state)]))
            await until(partial(is_seen, sequence))
            assert len(it.changes) == num_changes


async def test_leaving_is_noted(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with coordinator(tokenizer) as it, member(it.address) as node:
        node.link.send(join())
        node.link.send(Message(leave=control_pb2.Leave(reason="maintenance")))
        await until(lambda: "leaves: maintenance" in caplog.text)
        assert it.swarm.get(NODE) is not None  # it still finishes its sessions


@pytest.mark.parametrize(
    ("message", "error_type", "words"),
    [
        (join(node_id="b" * 32), PeerError, "sent the record of bbbb"),
        (heartbeat(node_id="b" * 32), PeerError, "sent the record of bbbb"),
        (heartbeat(node_id=""), PeerError, "must have an id and an address"),
        (heartbeat(started_at_s=float("nan")), PeerError, "started at nan"),
        (join(control_pb2.Wish(model_id="me/none")), UnknownModelError, "not served here"),
        (join(control_pb2.Wish(model_id=MODEL, span=common_pb2.LayerRange())), InvalidRequestError, "0:0 is empty"),
        (
            join(control_pb2.Wish(model_id=MODEL, span=common_pb2.LayerRange(start=5, end=9))),
            InvalidRequestError,
            "reach past",
        ),
        (
            Message(join=control_pb2.Join(record=record(), wishes=[control_pb2.Wish()], dtype="auto")),
            AssignmentError,
            "not one layer",
        ),
        (
            Message(join=control_pb2.Join(record=record(), wishes=[control_pb2.Wish()], dtype="bfloat16+int3")),
            InvalidRequestError,
            "precision 'bfloat16+int3' is not known here",
        ),
    ],
)
async def test_what_can_not_be_taken_ends_the_stream_with_its_reason(
    tokenizer: Tokenizer, message: Message, error_type: type[OsaiError], words: str
) -> None:
    """As a message, for a node that reads, and as the stream's status."""
    async with coordinator(tokenizer) as it, member(it.address) as node:
        node.link.send(message)
        ended = await asyncio.wait_for(node.ended, 5)
        for error in (ended, from_proto(node.told[-1].error)):
            assert error.code == error_type.code
            assert words in error.message
        await until(lambda: it.swarm.nodes == ())


async def greet(address: str, first: Message) -> OsaiError:
    """How the service ends a stream that begins with `first`."""
    async with insecure_channel(address) as channel:
        call = control_pb2_grpc.ControlStub(channel).Membership()
        await call.write(first)
        try:
            async with asyncio.timeout(5):
                while await call.read():
                    pass
        except grpc.aio.AioRpcError as e:
            return error_of(e, address)
    pytest.fail("the stream ended without a reason")


@pytest.mark.parametrize(
    ("first", "error_type", "words"),
    [
        (Message(hello=common_pb2.Hello(protocol_version=99, software="osai/9", peer_id=NODE)), ProtocolMismatchError,
         f"osai/9 speaks protocol 99, .* speaks {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}"),
        (Message(hello=common_pb2.Hello(peer_id=NODE)), ProtocolMismatchError, "speaks protocol 0"),
        (Message(hello=hello("")), PeerError, "must name its id"),
        (join(), ProtocolMismatchError, "must be hello"),
        (Message(), ProtocolMismatchError, "must be hello"),
    ],
)  # fmt: skip
async def test_a_stream_without_a_proper_hello_is_refused(
    tokenizer: Tokenizer, first: Message, error_type: type[OsaiError], words: str
) -> None:
    async with coordinator(tokenizer) as it:
        error = await greet(it.address, first)
        assert error.code == error_type.code
        assert re.search(words, error.message)
        assert it.swarm.nodes == ()


async def test_both_sides_see_a_mismatch_of_versions(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    newer = common_pb2.Hello(protocol_version=PROTOCOL_VERSION + 1, software="osai/new", peer_id=NODE)
    monkeypatch.setattr("osai.core.link.hello", lambda _: newer)
    async with coordinator(tokenizer) as it, member(it.address) as node:
        error = await asyncio.wait_for(node.ended, 5)
    assert isinstance(error, ProtocolMismatchError)
    for text in (error.message, caplog.text):
        assert f"osai/new speaks protocol {PROTOCOL_VERSION + 1}" in text
        assert f"speaks {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}" in text
    assert not node.greeted.is_set()


async def test_a_silent_node_is_let_go(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_service, "MAX_SILENCE_S", 0.2)
    async with coordinator(tokenizer) as it, member(it.address) as node:
        node.link.send(join())
        ended = await asyncio.wait_for(node.ended, 5)
        assert isinstance(ended, UnavailableError)
        assert "nothing was heard" in ended.message
        await until(lambda: it.swarm.nodes == ())


async def test_a_peer_that_dials_and_says_nothing_is_let_go(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_service, "GREETING_DEADLINE_S", 0.2)
    async with coordinator(tokenizer) as it, insecure_channel(it.address) as channel:
        call = control_pb2_grpc.ControlStub(channel).Membership()
        reason = await asyncio.wait_for(call.read(), 5)
        assert isinstance(reason, control_pb2.CoordinatorMessage)
        assert "nothing was heard" in reason.error.message
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 5)
        assert "nothing was heard" in error_of(caught.value).message


async def test_a_node_that_comes_back_before_it_was_missed_stays(tokenizer: Tokenizer) -> None:
    """Its old stream ends later, and must not take the new one's membership along."""
    async with coordinator(tokenizer) as it, member(it.address) as old:
        old.link.send(join(sequence=1))
        await old.kinds(2)
        async with member(it.address) as new:
            new.link.send(join(sequence=2))
            await new.kinds(1)
            await old.end()
            new.link.send(heartbeat(sequence=3, num_sessions=4))
            await until(lambda: bool(it.swarm.nodes) and it.swarm.nodes[0].num_sessions == 4)
            await asyncio.sleep(0.1)  # for the old stream's end to be noticed
            assert it.swarm.get(NODE) is not None
        await until(lambda: it.swarm.nodes == ())


def incarnation(started_at_s: float, sequence: int) -> Message:
    member = record(NODE, sequence, started_at_s=started_at_s)
    return Message(
        join=control_pb2.Join(record=member, wishes=[control_pb2.Wish()], dtype="float32", memory_bytes=10**6)
    )


async def test_of_two_processes_with_one_id_the_one_started_later_wins(tokenizer: Tokenizer) -> None:
    async with coordinator(tokenizer) as it, member(it.address) as old:
        old.link.send(incarnation(100.0, 1))
        await old.kinds(2)
        async with member(it.address) as new:
            new.link.send(incarnation(200.0, 1000))
            assert (await new.kinds(1))[0] == "welcome"
            assert (await old.kinds(3))[2] == "error"
            error = from_proto(old.told[2].error)
            assert isinstance(error, AssignmentError)
            assert error.subject == NODE
            assert "started later" in error.message
            assert "--state" in error.message
            old.link.send(heartbeat(sequence=2, num_sessions=7))  # of an incarnation that has been superseded
            assert isinstance(await asyncio.wait_for(old.ended, 5), AssignmentError)
            found = it.swarm.get(NODE)
            assert found is not None
            assert (found.sequence, found.num_sessions) == (1000, 0)


async def test_a_former_incarnation_that_dials_in_again_is_refused(tokenizer: Tokenizer) -> None:
    async with coordinator(tokenizer) as it, member(it.address) as new:
        new.link.send(incarnation(200.0, 1000))
        await new.kinds(2)
        async with member(it.address) as old:
            old.link.send(incarnation(100.0, 1))
            assert isinstance(await asyncio.wait_for(old.ended, 5), AssignmentError)
        new.link.send(Message(heartbeat=control_pb2.Heartbeat(record=record(sequence=1001, num_sessions=3))))
        await until(lambda: bool(it.swarm.nodes) and it.swarm.nodes[0].num_sessions == 3)


async def test_a_member_is_told_of_other_layers_with_a_newer_number(tokenizer: Tokenizer) -> None:
    async with coordinator(tokenizer) as it, member(it.address) as node:
        node.link.send(join())
        await node.kinds(2)
        moved = Assignment(model=it.served, layers=LayerRange(2, 4))
        await it.service.tell(NODE, moved, replace=True)
        await it.service.tell("nobody", moved, replace=True)
        await node.kinds(3)
        first, second = node.told[1].assignment, node.told[2].assignment
        assert (second.span.start, second.span.end, second.replace) == (2, 4, True)
        assert not first.replace
        assert second.assignment_id > first.assignment_id


async def test_nodes_hear_of_a_coordinator_that_stops(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    async with coordinator(tokenizer) as it, member(it.address) as node:
        node.link.send(join())
        await node.kinds(2)
        await it.stop()
        assert isinstance(await asyncio.wait_for(node.ended, 5), UnavailableError)
    assert not [entry for entry in caplog.records if entry.exc_info]


async def test_nodes_that_vanish_leave_no_trace(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    """Their streams are cancelled at any moment: also while they are told something."""
    async with coordinator(tokenizer) as it:
        for i in range(20):
            async with member(it.address, f"{i:032x}") as node:
                node.link.send(join(node_id=f"{i:032x}"))
                await node.kinds(i % 3)
        await until(lambda: it.swarm.nodes == ())
    assert not [entry for entry in caplog.records if entry.exc_info]
