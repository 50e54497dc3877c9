"""What an edge is compared with: the same bytes there and back, over bare TCP and over a bare gRPC stream."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self, cast

import grpc
import grpc.aio

from osai.core.errors import UnavailableError
from osai.core.rpc import EDGE_MAX_BYTES, bind, insecure_channel, make_server

METHOD = "/bench/Echo"


class TcpEcho(asyncio.Protocol):
    """Writes back what comes, as it comes: the least that asyncio can do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has dialled."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has its methods, not its type

    def data_received(self, data: bytes) -> None:
        """Some of a message has come."""
        self._transport.write(data)


class TcpPing(asyncio.Protocol):
    """The client's side. uvloop sets TCP_NODELAY itself."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._num_missing = 0
        self._back: asyncio.Future[float] | None = None

    @classmethod
    @asynccontextmanager
    async def dial(cls, address: str, message: bytes) -> AsyncIterator[Self]:
        """Connect to HOST:PORT."""
        host, _, port = address.rpartition(":")
        transport, ping = await asyncio.get_running_loop().create_connection(lambda: cls(message), host, int(port))
        try:
            yield ping
        finally:
            transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Some of the echo has come."""
        self._num_missing -= len(data)
        if self._num_missing == 0 and self._back is not None:
            self._back.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has gone."""
        if self._back is not None and not self._back.done():
            self._back.set_exception(UnavailableError(f"the TCP echo ended: {exc or 'closed'}"))

    async def round_trip(self) -> float:
        """Seconds until the whole message is back."""
        self._num_missing = len(self._message)
        self._back = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        self._transport.write(self._message)
        return await self._back - start


class GrpcPing:
    """A bidirectional grpc.aio stream of bytes, with the edge's channel options."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]", message: bytes) -> None:
        self._call = call
        self._message = message

    @classmethod
    @asynccontextmanager
    async def dial(cls, address: str, message: bytes) -> AsyncIterator[Self]:
        """Connect to HOST:PORT."""
        async with insecure_channel(address, max_message_bytes=EDGE_MAX_BYTES) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
            call = method()
            try:
                yield cls(call, message)
            finally:
                call.cancel()

    async def round_trip(self) -> float:
        """Seconds until the message is back.

        Raises:
            UnavailableError: if something else comes back.
        """
        start = time.perf_counter()
        await self._call.write(self._message)
        answer = await self._call.read()
        end = time.perf_counter()
        if answer != self._message:
            raise UnavailableError("the bare gRPC stream did not echo")
        return end - start


@asynccontextmanager
async def tcp_echo_server() -> AsyncIterator[str]:
    """A TCP echo on a free port; gives HOST:PORT."""
    server = await asyncio.get_running_loop().create_server(TcpEcho, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


@asynccontextmanager
async def grpc_echo_server() -> AsyncIterator[str]:
    """A gRPC echo on a free port; gives HOST:PORT."""

    async def echo(_: object, context: Any) -> None:  # noqa: ANN401 - grpc's own is untyped here
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)

    server = make_server(max_message_bytes=EDGE_MAX_BYTES)
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(echo)
    service, _, method = METHOD.removeprefix("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
