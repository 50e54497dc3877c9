"""A tap between a server and who dials it: it passes on every message unchanged, and notes it.

It speaks gRPC to both sides without knowing the messages, and relays bare streams (osai.core.frame_stream) beside them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
from scripts.chaos_runs.door import both_ways, pump
from scripts.chaos_runs.recording import Said

from osai.core.frame_stream import LENGTH_BYTES, OFFER_METADATA_KEY, PREFIX
from osai.core.rpc import EDGE_MAX_BYTES, ERROR_METADATA_KEY, insecure_channel, make_server

Sink = Callable[[Said], None]
Handler = Any  # grpc.RpcMethodHandler, whose stubs know no bytes
UNARY = frozenset({"/osai.v1.Coordinator/Greet", "/osai.v1.Coordinator/ListModels", "/osai.v1.Coordinator/GetSwarm"})
PASSED_ON = (OFFER_METADATA_KEY, ERROR_METADATA_KEY)


def _same(data: bytes) -> bytes:
    return data


class Tap:
    """Stands in the place of one server.

    Args:
        server: its name in the recording.
        target: its HOST:PORT.
        sink: takes what is said.
        calls: gives each call its number; shared by the taps of a swarm.
    """

    def __init__(self, server: str, target: str, sink: Sink, calls: Callable[[], int]) -> None:
        self._server = server
        self._target = target
        self._sink = sink
        self._calls = calls
        self._call_of_ticket: dict[bytes, int] = {}

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        """Tap while the block runs; gives HOST:PORT."""
        async with AsyncExitStack() as stack:
            server = make_server(max_message_bytes=EDGE_MAX_BYTES)
            server.add_generic_rpc_handlers((_Handlers(self._method),))
            self._channel = await stack.enter_async_context(
                insecure_channel(self._target, max_message_bytes=EDGE_MAX_BYTES)
            )
            yield await stack.enter_async_context(both_ways(server, self._bare))

    def _method(self, method: str) -> Handler:
        handler: Any = grpc.unary_unary_rpc_method_handler if method in UNARY else grpc.stream_stream_rpc_method_handler
        relay = self._unary if method in UNARY else self._stream
        found: Handler = handler(partial(relay, method), request_deserializer=_same, response_serializer=_same)
        return found

    def _note(self, call: int, method: str, data: bytes, *, by_dialler: bool, bare: bool = False) -> None:
        self._sink(Said(call=call, server=self._server, method=method, by_dialler=by_dialler, bare=bare, data=data))

    async def _unary(self, method: str, request: bytes, _: Any) -> bytes:  # noqa: ANN401 - gRPC's context
        number = self._calls()
        self._note(number, method, request, by_dialler=True)
        answer: bytes = await self._channel.unary_unary(method, _same, _same)(request)
        self._note(number, method, answer, by_dialler=False)
        return answer

    async def _stream(self, method: str, requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: ANN401
        number = self._calls()
        call: Any = self._channel.stream_stream(method, _same, _same)()
        forward = asyncio.ensure_future(self._forward(number, method, requests, call))
        try:
            offered = [(key, value) for key, value in await call.initial_metadata() or () if key in PASSED_ON]
            self._call_of_ticket |= {bytes(value): number for _, value in offered}
            await context.send_initial_metadata(offered)
            while (answer := await call.read()) is not grpc.aio.EOF:
                self._note(number, method, answer, by_dialler=False)
                await context.write(answer)
            context.set_code(await call.code())
            context.set_trailing_metadata([(k, v) for k, v in await call.trailing_metadata() or () if k in PASSED_ON])
        finally:
            forward.cancel()
            call.cancel()

    async def _forward(self, number: int, method: str, requests: AsyncIterator[bytes], call: Any) -> None:  # noqa: ANN401
        async for request in requests:
            self._note(number, method, request, by_dialler=True)
            await call.write(request)
        await call.done_writing()

    async def _bare(self, ticket: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        far_writer.write(PREFIX + ticket)
        ways = (pump(reader, far_writer, self._bare_notes(ticket)), pump(far_reader, writer))
        await asyncio.gather(*ways, return_exceptions=True)

    def _bare_notes(self, ticket: bytes) -> Callable[[bytes], None]:
        number, unparsed = self._call_of_ticket[ticket], bytearray()

        def take(data: bytes) -> None:
            unparsed.extend(data)
            while len(unparsed) >= LENGTH_BYTES:
                end = LENGTH_BYTES + int.from_bytes(unparsed[:LENGTH_BYTES], "little")
                if len(unparsed) < end:
                    return
                message = bytes(unparsed[LENGTH_BYTES:end])
                self._note(number, "/osai.v1.Edge/Link", message, by_dialler=True, bare=True)
                del unparsed[:end]

        return take


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, handler_of: Callable[[str], Handler]) -> None:
        self._handler_of = handler_of

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of any method."""
        return self._handler_of(str(handler_call_details.method))
