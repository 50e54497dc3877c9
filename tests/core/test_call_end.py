"""What a peer said as it ended a call is told, whatever gRPC makes of it afterwards."""

from typing import Any

import grpc
import grpc.aio
import pytest

from osai.core.call_end import CallEnd
from osai.core.errors import InternalError, ProtocolMismatchError, UnavailableError
from osai.core.rpc import abort, bind, error_of, insecure_channel, make_server
from osai.proto import edge_pb2_grpc


class Ender(edge_pb2_grpc.EdgeServicer):
    """Ends every link at once, with a reason or without."""

    def __init__(self, *, ends_well: bool) -> None:
        self._ends_well = ends_well

    async def Link(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        if not self._ends_well:
            await abort(context, ProtocolMismatchError("too old"))


@pytest.mark.parametrize("ends_well", [False, True])
async def test_a_write_that_fails_as_the_peer_ends_the_call_does_not_hide_why(ends_well: bool) -> None:
    """What gRPC does in one of ten such calls on a busy machine is done here on purpose."""
    server = make_server()
    edge_pb2_grpc.add_EdgeServicer_to_server(Ender(ends_well=ends_well), server)
    address = f"127.0.0.1:{bind(server, '127.0.0.1:0')}"
    await server.start()
    try:
        async with insecure_channel(address) as channel:
            call: Any = edge_pb2_grpc.EdgeStub(channel).Link()
            end = CallEnd(call)
            await call.code()
            call._cython_call.set_internal_error("a write failed")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    finally:
        await server.stop(None)
    assert type(error_of(caught.value)) is InternalError
    assert type(error_of(end.failure(caught.value))) is (UnavailableError if ends_well else ProtocolMismatchError)
