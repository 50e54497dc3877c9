"""Attacks over real sockets: each ends with a typed error, or with the connection, and none with anything else."""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
import torch
from scripts.chaos_runs.wire_bytes import field
from scripts.chaos_runs.wire_http2 import Connection, connected, grpc_message, gzip_bomb
from scripts.chaos_runs.wire_span import HIDDEN_SIZE, UNHURRIED, hidden, open_session, rows

from osai.core.bulk import MAX_PARTS
from osai.core.errors import OsaiError, from_proto
from osai.core.frame_stream import OFFER_METADATA_KEY, PREFIX
from osai.core.protocol import hello
from osai.core.rpc import EDGE_MAX_BYTES, error_of, insecure_channel
from osai.node.wire import write_batch
from osai.proto import edge_pb2

Message = edge_pb2.LinkMessage
LINK, GENERATE, MEMBERSHIP = "/osai.v1.Edge/Link", "/osai.v1.Coordinator/Generate", "/osai.v1.Control/Membership"
UNARY = ("/osai.v1.Coordinator/Greet", "/osai.v1.Coordinator/ListModels", "/osai.v1.Coordinator/GetSwarm", GENERATE)
DEADLINE_S = 90.0  # for one answer: on a machine that is busy with other work all is late
GREETING = Message(hello=hello("attacker")).SerializeToString()


class UntypedError(Exception):
    """An attack ended otherwise than with a typed error; that there is none is what is to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """Where it listens, and whose memory is looked at."""

    edge: str
    coordinator: str
    pid: int = 0


async def said(address: str, method: str, *messages: bytes, greeting: bytes = b"") -> OsaiError:
    """How a call ends that carries these bytes.

    Args:
        address: of the server.
        method: that is called.
        messages: sent after the greeting has been answered.
        greeting: sent first, if any.
    """
    async with insecure_channel(address, max_message_bytes=2 * EDGE_MAX_BYTES, pings=UNHURRIED) as channel:
        call: Any = channel.stream_stream(method)()
        try:
            async with asyncio.timeout(DEADLINE_S):
                if greeting:
                    await call.write(greeting)
                    await call.read()
                for message in messages:
                    await call.write(message)
                await call.done_writing()
                while await call.read() is not grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as e:
            if e.code() is grpc.StatusCode.UNKNOWN:
                raise UntypedError(f"{method} has failed with {e.details()}") from e
            return error_of(e, address)
    raise UntypedError(f"{method} took what is not to be taken")


async def undecodable(victim: Victim) -> list[OsaiError]:
    """Bytes that are no message, to every call."""
    calls = [(victim.coordinator, method) for method in (*UNARY, MEMBERSHIP)] + [(victim.edge, LINK)]
    return [await said(*call, data) for call in calls for data in (b"\xff", b"\x0a\x05abc")]


async def swelling(victim: Victim) -> list[OsaiError]:
    """Few bytes that would be many in memory."""
    parts = MAX_PARTS + 10
    requests = (field(4, b"\x0a\0" * parts), field(10, b"\x22\0" * parts))
    frames = (field(2, b"\x0a\0" * 8 * parts), field(3, b"\x62\0" * 8 * parts), field(2, field(3, b"\1" * 2**23)))
    return [
        *[await said(victim.coordinator, GENERATE, request) for request in requests],
        *[await said(victim.edge, LINK, message, greeting=GREETING) for message in frames],
    ]


async def oversized(victim: Victim) -> list[OsaiError]:
    """More bytes than a message may have: over gRPC, and over a bare stream, which says so before they come."""
    told = [await said(victim.coordinator, GENERATE, field(2, b"x" * 5 * 2**20))]
    told.append(await said(victim.edge, LINK, field(2, bytes(EDGE_MAX_BYTES)), greeting=GREETING))
    told.append(await on_stream(victim, struct.pack("<I", EDGE_MAX_BYTES + 1)))
    return told


async def on_stream(victim: Victim, data: bytes) -> OsaiError:
    """How a link ends whose bare stream carries these bytes."""
    async with insecure_channel(victim.edge, pings=UNHURRIED) as channel:
        call: Any = channel.stream_stream(LINK)()
        await call.write(GREETING)
        await call.read()
        ticket = next(value for key, value in await call.initial_metadata() if key == OFFER_METADATA_KEY)
        host, _, port = victim.edge.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFIX + cast("bytes", ticket) + data)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await call.read()
        except grpc.aio.AioRpcError as e:
            return error_of(e, victim.edge)
        finally:
            writer.transport.abort()
    raise UntypedError("the stream went on")


async def bombs(victim: Victim) -> list[OsaiError]:
    """A GiB of zeros in a MiB of gzip, as a request and as a frame."""
    message = grpc_message(await asyncio.to_thread(gzip_bomb, 2**30), compressed=True)
    return [await bombed(victim.coordinator, GENERATE, message), await bombed(victim.edge, LINK, message)]


async def bombed(address: str, method: str, message: bytes) -> OsaiError:
    """How a call ends whose first message is compressed."""
    async with connected(address) as it, asyncio.timeout(DEADLINE_S):
        it.call(1, method, ("grpc-encoding", "gzip"))
        await it.data(1, message)
        headers = await it.until_ended(1)
    if b"grpc-status" not in headers:
        raise UntypedError(f"no status came for a compressed message, but {headers!r}")
    return OsaiError(repr(headers))


async def headers(victim: Victim) -> list[OsaiError]:
    """Calls with headers of 64 KiB."""
    async with insecure_channel(victim.coordinator, pings=UNHURRIED) as channel:
        greet: Any = channel.unary_unary(UNARY[0])
        told = []
        for i in range(10):
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await greet(b"\x08\1", metadata=((f"x-{i}", "v" * 2**16),))
            except grpc.aio.AioRpcError as e:
                told.append(error_of(e))
        return told


async def odd_frames(victim: Victim) -> list[OsaiError]:
    """Rows that no stage can run: not finite, of another shape, dtype or size, of nobody's session."""
    sound = hidden(3)
    odd = [write_batch([rows(66)], torch.full_like(sound, value)) for value in (torch.nan, torch.inf, -torch.inf)]
    odd += [write_batch([rows(66)], sound.bfloat16()), write_batch([rows(66)], torch.zeros(3, dtype=torch.int32))]
    odd += [write_batch([rows(66)], torch.zeros(3, 2 * HIDDEN_SIZE)), write_batch([rows(66, count=2**32 - 1)], sound)]
    odd += [write_batch([rows(66, position=2**32 - 1)], sound), write_batch([rows(67)], sound)]
    for name, value in (("dtype", 99), ("data", b""), ("data", bytes(2**20))):
        odd.append(write_batch([rows(66)], sound))
        setattr(odd[-1].frames, name, value)
    async with insecure_channel(victim.edge, max_message_bytes=EDGE_MAX_BYTES, pings=UNHURRIED) as channel:
        call: Any = channel.stream_stream(LINK, lambda message: message.SerializeToString(), Message.FromString)()
        told = []
        for message in (Message(hello=hello("odd")), Message(open=open_session(66)), *odd):
            await call.write(message)
            if message.HasField("frames") and message.frames.frames[0].position == 2**32 - 1:
                continue  # the engine's to refuse, and here is none
            async with asyncio.timeout(DEADLINE_S):
                told.append(await call.read())
        call.cancel()
    return [from_proto(answer.failed.error) for answer in told[2:]]


async def silence(victim: Victim) -> list[OsaiError]:
    """Connections that say nothing, or a byte now and then, and calls that never greet: as many as there may be."""
    host, _, port = victim.edge.rpartition(":")
    async with AsyncExitStack() as stack:
        writers = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(700)]
        for writer in writers:
            stack.callback(writer.transport.abort)
        for i in range(3):
            for writer in writers[::2]:
                writer.write(PREFIX[i : i + 1])
            await asyncio.sleep(0.1)
        calls = [await stack.enter_async_context(connected(at)) for at in (victim.edge, victim.coordinator)]
        for call in calls:
            _never_greet(call)
        await asyncio.sleep(0.5)
    return []


def _never_greet(connection: Connection) -> None:
    for i in range(500):
        connection.call(2 * i + 1, (LINK, MEMBERSHIP, GENERATE)[i % 3])
        connection.send(b"" if i % 2 else b"\0\0\1\0\0" + (2 * i + 1).to_bytes(4) + b"\0")  # one byte of a message


Attack = Callable[[Victim], Awaitable[Sequence[OsaiError]]]
ATTACKS: dict[str, Attack] = {
    "undecodable": undecodable,
    "swelling": swelling,
    "oversized": oversized,
    "bombs": bombs,
    "headers": headers,
    "odd frames": odd_frames,
    "silence": silence,
}
NUM_TOLD = {"undecodable": 12, "swelling": 5, "oversized": 3, "bombs": 2, "headers": 10, "odd frames": 11, "silence": 0}
