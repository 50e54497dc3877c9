"""What a peer said as it ended a call is told, whatever gRPC makes of it afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from osai.core.call_end import CallEnd
from osai.core.errors import InternalError, ProtocolMismatchError, UnavailableError
from osai.core.rpc import abort, bind, error_of, insecure_channel, make_server
from osai.proto import edge_pb2, edge_pb2_grpc


class Ender(edge_pb2_grpc.EdgeServicer):
    """Ends every link once it may, with a reason or without, after some messages."""

    def __init__(self, *, ends_well: bool, num_messages: int = 0) -> None:
        self._ends_well = ends_well
        self._num_messages = num_messages
        self.may = asyncio.Event()

    async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        for _ in range(self._num_messages):
            await context.write(edge_pb2.LinkMessage())
        await self.may.wait()
        if not self._ends_well:
            await abort(context, ProtocolMismatchError("too old"))


@asynccontextmanager
async def linked(ender: Ender) -> AsyncIterator[Any]:
    server = make_server()
    edge_pb2_grpc.add_EdgeServicer_to_server(ender, server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
    await server.start()
    try:
        async with insecure_channel(address) as channel:
            yield edge_pb2_grpc.EdgeStub(channel).Link()
    finally:
        await server.stop(None)


async def fail_a_write(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401
    """What gRPC does in one of ten such calls on a busy machine is done here on purpose."""
    call._cython_call.set_internal_error("a write failed")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert type(error_of(caught.value)) is InternalError
    return caught.value


@pytest.mark.parametrize("ends_well", [False, True])
async def test_a_write_that_fails_after_the_peer_has_ended_the_call_does_not_hide_why(ends_well: bool) -> None:
    ender = Ender(ends_well=ends_well)
    async with linked(ender) as call:
        end = CallEnd(call)
        ender.may.set()
        await call.code()
        error = error_of(await end.failure(await fail_a_write(call)))
    assert type(error) is (UnavailableError if ends_well else ProtocolMismatchError)


@pytest.mark.parametrize("ends_well", [False, True])
async def test_a_write_that_fails_before_the_peers_word_has_come_does_not_hide_it(ends_well: bool) -> None:
    """Seen of a link to a node under attack: INTERNAL came first, the typed error after it."""
    ender = Ender(ends_well=ends_well)
    async with linked(ender) as call:
        end = CallEnd(call)
        raised = await fail_a_write(call)
        asyncio.get_running_loop().call_later(0.05, ender.may.set)
        error = error_of(await end.failure(raised))
    assert type(error) is (UnavailableError if ends_well else ProtocolMismatchError)


@pytest.mark.parametrize("num_messages", [1, 3])
async def test_what_nobody_has_read_does_not_hide_it_either(num_messages: int) -> None:
    """Of a coordinator that refuses in words first: in 1 of 700 such links the status never came."""
    ender = Ender(ends_well=False, num_messages=num_messages)
    async with linked(ender) as call:
        end = CallEnd(call)
        raised = await fail_a_write(call)
        ender.may.set()
        error = error_of(await end.failure(raised))
    assert type(error) is ProtocolMismatchError


async def test_where_the_peer_says_nothing_what_grpc_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osai.core.call_end.STATUS_GRACE_S", 0.05)
    async with linked(Ender(ends_well=True)) as call:
        end = CallEnd(call)
        raised = await fail_a_write(call)
        async with asyncio.timeout(5):
            error = error_of(await end.failure(raised))
    assert type(error) is InternalError
