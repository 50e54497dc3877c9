"""A node's ring on loopback: real links and frames around an engine whose steps the tests take."""

import asyncio
import logging
import re
import time
from typing import Any

import grpc
import pytest
import torch

from coordinator.fake_stage import FakeStage, failed, silent, stages
from node.fake_engine import (
    HEAD,
    MIDDLE,
    MODEL,
    NEXT,
    TAIL,
    WHOLE,
    Message,
    hidden,
    ids,
    node,
    open_session,
    rows,
    until,
)
from osai.core.errors import (
    AssignmentError,
    BadFrameError,
    InvalidRequestError,
    OsaiError,
    ProtocolMismatchError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownSessionError,
    from_proto,
)
from osai.core.layers import LayerRange
from osai.core.link import edge_link
from osai.core.protocol import PROTOCOL_VERSION, hello
from osai.core.rpc import EDGE_MAX_BYTES, error_of, insecure_channel
from osai.node import edge_service, owners
from osai.node.engine.api import Sampled
from osai.node.stages.stage import Peer
from osai.node.stages.table import ORPHAN_S
from osai.node.wire import write_batch
from osai.proto import common_pb2, edge_pb2, edge_pb2_grpc


async def test_a_session_is_opened_with_what_its_stage_needs() -> None:
    async with node(TAIL) as it:
        await it.opens(1, TAIL, NEXT, stop_token_ids=[2], prompt_token_ids=[5, 6, 7])
        spec = it.engine.sessions[1]
        assert (spec.span, spec.num_prompt_tokens, spec.max_total_tokens) == (MODEL, 3, 10)
        assert (spec.stop_token_ids, spec.prompt_token_ids) == (frozenset({2}), (5, 6, 7))
        assert spec.sampling is not None
        assert it.ring.num_sessions == 1


@pytest.mark.parametrize(
    ("layers", "fields", "error_type"),
    [
        (HEAD, {}, AssignmentError),
        (TAIL, {"model_id": "me/none"}, AssignmentError),
        (TAIL, {"manifest_digest": b"x" * 32}, AssignmentError),
        (TAIL, {"num_prompt_tokens": 0}, InvalidRequestError),
        (TAIL, {"num_prompt_tokens": 11}, InvalidRequestError),
        (TAIL, {"sampling": common_pb2.SamplingParams(temperature=-1)}, InvalidRequestError),
        (TAIL, {"span": common_pb2.LayerRange()}, InvalidRequestError),
        (TAIL, {"num_stages": 7}, InvalidRequestError),
        (TAIL, {"block_hashes": [b"h" * 16]}, InvalidRequestError),  # a prompt of 3 tokens has no full block
        (TAIL, {"num_prompt_tokens": 16, "max_total_tokens": 99, "block_hashes": [b"h" * 16]}, InvalidRequestError),
        (TAIL, {"num_prompt_tokens": 17, "max_total_tokens": 99, "block_hashes": [b"h" * 15]}, InvalidRequestError),
        (TAIL, {"num_prompt_tokens": 17, "max_total_tokens": 99, "block_hashes": [b""]}, InvalidRequestError),
    ],
)
async def test_a_session_that_is_not_for_this_node_is_refused(
    layers: LayerRange, fields: dict[str, Any], error_type: type[OsaiError]
) -> None:
    async with node(TAIL) as it:
        it.open(1, layers, NEXT, **fields)
        session, error = await it.fails()
        assert (session, error.code) == (1, error_type.code)
        assert (it.engine.sessions, it.ring.num_sessions) == ({}, 0)


async def test_a_session_is_opened_once() -> None:
    async with node(TAIL) as it:
        await it.opens(1, TAIL, NEXT)
        it.open(1, TAIL, NEXT)
        session, error = await it.fails(2)
        assert (session, type(error)) == (1, AssignmentError)
        assert 1 in it.engine.sessions  # the first goes on


async def test_an_engine_without_room_refuses_the_session() -> None:
    async with node(TAIL) as it:
        it.engine.refusal = ResourceExhaustedError("no KV blocks left")
        it.open(1, TAIL, NEXT)
        session, error = await it.fails()
        assert (session, type(error), error.message) == (1, ResourceExhaustedError, "no KV blocks left")
        assert it.ring.num_sessions == 0
        await it.opens(1, TAIL, NEXT)  # there is room now


def float_frames(**fields: Any) -> Message:  # noqa: ANN401
    message = write_batch([rows()], hidden(3))
    for name, value in fields.items():
        if name == "shape":
            message.frames.shape[:] = value
        else:
            setattr(message.frames, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (write_batch([rows()], hidden(3, torch.bfloat16)), "dtype is DTYPE_BFLOAT16"),
        (write_batch([rows()], ids(1, 2, 3)), "dtype is DTYPE_INT32"),
        (float_frames(dtype=99), "dtype is 99"),
        (float_frames(shape=[3, 5]), r"shape is \(3, 5\)"),
        (float_frames(shape=[3]), r"shape is \(3,\)"),
        (float_frames(shape=[]), r"shape is \(\)"),
        (float_frames(data=b"short"), "carries 5 bytes"),
        (write_batch([rows(count=2)], hidden(3)), r"shape is \(3, 4\)"),
        (write_batch([rows(), rows(count=0)], hidden(3)), "counts and stage"),
        (write_batch([rows(count=2**32 - 1)], hidden(3)), "counts and stage"),
    ],
)
async def test_a_frame_of_another_form_is_refused_to_its_sender(message: Message, words: str) -> None:
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT)
        it.link.send(message)
        await until(lambda: len(it.told) >= 2)
        error = from_proto(it.told[1].failed.error)
        assert error.code == BadFrameError.code
        assert re.search(words, error.message)
        assert it.engine.inputs == []


async def test_a_frame_of_an_unknown_session_is_refused_and_its_neighbours_run() -> None:
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT)
        it.link.send(write_batch([rows(7, count=2), rows(1, count=2), rows(8, count=1)], hidden(5)))
        await until(lambda: len(it.told) == 3)
        errors = {message.failed.session: from_proto(message.failed.error) for message in it.told[1:]}
        assert {session: type(error) for session, error in errors.items()} == {
            7: UnknownSessionError,
            8: UnknownSessionError,
        }
        (inp,) = it.engine.inputs
        assert inp.rows == rows(1, count=2)
        assert torch.equal(inp.data, hidden(5)[2:4])


async def test_frames_that_come_too_late_are_dropped() -> None:
    """Of a session that has closed, and of an older epoch."""
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT, epoch=1)
        await it.opens(2, MIDDLE, NEXT)
        it.link.send(write_batch([rows(1, epoch=0)], hidden(3)))
        it.link.send(Message(close=edge_pb2.CloseSession(session=2)))
        it.link.send(write_batch([rows(2)], hidden(3)))
        it.link.send(Message(close=edge_pb2.CloseSession(session=99)))  # never open: no error
        it.link.send(write_batch([rows(1)], hidden(3)))
        await until(lambda: bool(it.engine.inputs))
        assert [inp.rows for inp in it.engine.inputs] == [rows(1)]
        assert (it.engine.closed, it.ring.num_sessions, len(it.told)) == ([2], 1, 2)


async def test_sessions_outlive_the_link_that_opened_them_for_a_while() -> None:
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT)
        other: list[Message] = []
        link = edge_link("me", it.address, "another", other.append)
        running = asyncio.create_task(link.run())
        link.send(Message(open=open_session(2, MIDDLE, NEXT)))
        await until(lambda: bool(other))
        assert it.ring.num_sessions == 2
        running.cancel()
        await until(lambda: it.ring.num_sessions == 1)
        assert it.engine.closed == []
        it.ring.tick(time.monotonic() + ORPHAN_S - 1)
        assert it.engine.closed == []
        it.ring.tick(time.monotonic() + ORPHAN_S)
        assert it.engine.closed == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
async def test_hidden_rows_reach_the_successor_byte_for_byte(dtype: torch.dtype) -> None:
    """Prompt and generated rows of two sessions, on a link each for prefill and decode."""
    successor = FakeStage("next", silent)
    async with stages(successor), node(MIDDLE, dtype) as it:
        peer = Peer(node_id="next", address=successor.address)
        await it.opens(1, MIDDLE, peer)
        await it.opens(2, MIDDLE, peer)
        await it.opens(3, MIDDLE, peer)
        out = hidden(5, dtype)  # [3 prompt rows of 1, a token of 2, a token of 3]
        it.engine.step(rows(1), rows(2, 5, 1), rows(3, 7, 1), hidden=out)
        await successor.got("frames", 2)
        batches = {message.frames.frames[0].session: message.frames for message in successor.of("frames")}
        for session, part, shape in ((1, out[:3], [3, 4]), (2, out[3:], [2, 4])):
            batch = batches[session]
            assert batch.data == part.contiguous().view(torch.uint8).numpy().tobytes()
            assert list(batch.shape) == shape
        assert [(f.session, f.epoch, f.position, f.count) for f in batches[2].frames] == [(2, 1, 5, 1), (3, 1, 7, 1)]
        assert successor.num_links == 2


async def test_a_token_goes_to_the_head_and_to_the_coordinator() -> None:
    head = FakeStage("head", silent)
    async with stages(head), node(TAIL) as it:
        await it.opens(1, TAIL, Peer(node_id="head", address=head.address))
        first = Sampled(session=1, epoch=1, index=0, token_id=42, logprob=-0.5, top=((42, -0.5), (7, -1.5)))
        it.engine.step(rows(1), sampled=(first,))
        told = (await it.hears(2)).tokens.tokens[0]
        assert (told.session, told.epoch, told.index, told.token.token_id) == (1, 1, 0, 42)
        assert (told.token.logprob, [other.token_id for other in told.token.top]) == (-0.5, [42, 7])
        assert told.finish == common_pb2.FINISH_REASON_UNSPECIFIED
        batch = (await head.got("frames")).frames
        assert [(f.session, f.epoch, f.position, f.count) for f in batch.frames] == [(1, 1, 3, 1)]
        assert (batch.dtype, list(batch.shape), batch.data) == (common_pb2.DTYPE_INT32, [1], b"\x2a\0\0\0")
        it.engine.step(rows(1, 3, 1), sampled=(Sampled(session=1, epoch=1, index=1, token_id=2, finish="stop"),))
        assert (await it.hears(3)).tokens.tokens[0].finish == common_pb2.FINISH_REASON_STOP
        await asyncio.sleep(0.05)
        assert len(head.of("frames")) == 1  # nothing comes after the last


async def test_a_node_that_is_head_and_tail_feeds_itself() -> None:
    async with node(WHOLE) as it:
        await it.opens(1, WHOLE, Peer(node_id="me", address=it.address))
        it.link.send(write_batch([rows(1)], ids(5, 6, 7)))
        await until(lambda: len(it.engine.inputs) == 1)
        (prompt,) = it.engine.inputs
        assert (prompt.rows, prompt.data.dtype, prompt.data.tolist()) == (rows(1), torch.int64, [5, 6, 7])
        it.engine.step(rows(1), sampled=(Sampled(session=1, epoch=1, index=0, token_id=42),))
        assert (await it.hears(2)).tokens.tokens[0].token.token_id == 42
        fed = it.engine.inputs[1]
        assert (fed.rows, fed.data.dtype, fed.data.tolist()) == (rows(1, 3, 1), torch.int64, [42])
        assert it.ring._pool._links == {}


async def test_what_the_engine_refuses_is_told() -> None:
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT)
        it.engine.refusal = BadFrameError("hidden states are not finite")
        it.link.send(write_batch([rows(1)], hidden(3)))
        assert (await it.fails(2))[1].message == "hidden states are not finite"
    async with node(WHOLE) as it:
        await it.opens(1, WHOLE, Peer(node_id="me", address=it.address))
        it.engine.refusal = ResourceExhaustedError("too many rows wait")
        it.engine.step(rows(1), sampled=(Sampled(session=1, epoch=1, index=0, token_id=42),))
        await until(lambda: len(it.told) == 3)
        assert {message.WhichOneof("kind") for message in it.told} == {"opened", "tokens", "failed"}
        await until(lambda: it.engine.closed == [1])


async def test_a_step_that_failed_ends_its_sessions() -> None:
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT)
        it.engine.step(failed=((rows(1), ResourceExhaustedError("out of memory")),))
        session, error = await it.fails(2)
        assert (session, error.message, it.ring.num_sessions) == (1, "out of memory", 0)
        assert not it.told[-1].failed.open


@pytest.mark.parametrize("how", ["never there", "dies", "refuses"])
async def test_the_coordinator_hears_of_a_successor_that_is_lost(how: str) -> None:
    successor = FakeStage("next", silent)
    async with stages(successor), node(MIDDLE) as it:
        address = NEXT.address if how == "never there" else successor.address
        await it.opens(1, MIDDLE, Peer(node_id="next", address=address))
        await it.opens(2, MIDDLE, Peer(node_id="elsewhere", address=successor.address))
        it.engine.step(rows(1), hidden=hidden(3))
        if how != "never there":
            await successor.got("frames")
        if how == "dies":
            await successor.die()
        if how == "refuses":
            successor.say(failed(1, UnknownSessionError("who?")))
        session, error = await it.fails(3)
        expected = UnknownSessionError if how == "refuses" else UnavailableError
        assert (session, type(error), error.subject) == (1, expected, "next")
        assert it.told[-1].failed.open, "it can go on here in a later epoch"
        assert (it.engine.closed, it.ring.num_sessions) == ([], 2)


async def test_a_link_that_ends_later_than_the_ring_is_no_error() -> None:
    """It used to be: a node that was stopped under load left closes behind that nobody awaited."""
    async with node(TAIL) as it:
        owner, _ = it.ring.attach("slow")
        await it.ring.receive(owner, Message(open=open_session(1, TAIL, NEXT)))
    it.ring.detach(owner)
    assert it.ring.num_sessions == 0


async def test_a_coordinator_that_does_not_read_loses_its_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "MAX_QUEUED_REPLIES", 2)
    async with node(TAIL) as it:
        owner, _ = it.ring.attach("slow")  # nobody empties its outbox
        await it.ring.receive(owner, Message(open=open_session(1, TAIL, NEXT)))
        for i in range(2):
            it.engine.step(rows(1), sampled=(Sampled(session=1, epoch=1, index=i, token_id=42, finish="length"),))
        await until(lambda: it.ring.num_sessions == 0)
        assert it.engine.closed == []  # another coordinator may come for it


async def test_messages_that_a_node_does_not_take_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with node(TAIL) as it:
        for message in (Message(), Message(hello=hello("x")), Message(tokens=edge_pb2.TokenBatch())):
            it.link.send(message)
        await it.opens(1, TAIL, NEXT)
        assert "nothing known" in caplog.text


async def greeted(address: str, *first: Message, max_message_bytes: int = EDGE_MAX_BYTES) -> OsaiError:
    """How the edge ends a link that begins with these messages."""
    async with insecure_channel(address, max_message_bytes=max_message_bytes) as channel:
        call = edge_pb2_grpc.EdgeStub(channel).Link()
        try:
            async with asyncio.timeout(5):
                for message in first:
                    await call.write(message)
                while await call.read():
                    pass
        except grpc.aio.AioRpcError as e:
            return error_of(e, address)
    pytest.fail("the link ended without a reason")


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (Message(close=edge_pb2.CloseSession(session=1)), "must be hello"),
        (Message(), "must be hello"),
        (Message(hello=common_pb2.Hello(protocol_version=99, software="osai/9")), "osai/9 speaks protocol 99"),
        (Message(hello=common_pb2.Hello()), "speaks protocol 0"),
    ],
)
async def test_a_link_without_a_proper_hello_is_refused(first: Message, words: str) -> None:
    async with node(TAIL) as it:
        error = await greeted(it.address, first)
        assert isinstance(error, ProtocolMismatchError)
        assert words in error.message
        assert str(PROTOCOL_VERSION) in error.message or "hello" in error.message


async def test_a_peer_that_dials_and_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_service, "GREETING_DEADLINE_S", 0.1)
    async with node(TAIL) as it:
        error = await greeted(it.address)
        assert isinstance(error, UnavailableError)
        assert "no hello came" in error.message


async def test_a_message_over_the_limit_ends_its_link_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with node(MIDDLE) as it:
        await it.opens(1, MIDDLE, NEXT)
        over = Message(frames=edge_pb2.FrameBatch(data=bytes(EDGE_MAX_BYTES + 1)))
        error = await greeted(it.address, Message(hello=hello("x")), over, max_message_bytes=2 * EDGE_MAX_BYTES)
        assert isinstance(error, ResourceExhaustedError)
        await it.opens(2, MIDDLE, NEXT)
        assert it.ring.num_sessions == 2
    assert not [entry for entry in caplog.records if entry.exc_info]


async def test_peers_that_vanish_at_any_moment_leave_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    async with node(TAIL) as it:
        for i in range(20):
            link = edge_link("me", it.address, "passer-by", lambda _: None)
            running = asyncio.create_task(link.run())
            link.send(write_batch([rows(99)], hidden(3)))
            await asyncio.sleep(0.002 * (i % 5))
            running.cancel()
            await asyncio.wait([running])
        await it.opens(1, TAIL, NEXT)
        await until(lambda: len(it.ring._owners) == 1)
    assert not [entry for entry in caplog.records if entry.exc_info]
