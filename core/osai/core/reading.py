"""What every gRPC server of osai does with a request's bytes: they come in time, are not too many, and are a message.

gRPC parses requests itself if it is let: bytes that are none end the call with an untyped UNKNOWN and a traceback, and
a request that never comes keeps its call for ever. The B numbers are clauses of docs/security.md.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from osai.core.bulk import check_bulk
from osai.core.errors import DeadlineExceededError, InvalidRequestError, OsaiError, PeerError

REQUEST_DEADLINE_S = 30.0  # for all of the one request of a call, 4 MiB at most: 140 kB/s is a slow line

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Abort = Callable[[Any, OsaiError], Awaitable[Any]]


class Reading(grpc.aio.ServerInterceptor):
    """Reads requests, and ends calls with typed errors. The innermost of a server's interceptors.

    Args:
        abort: ends a call with an error.
    """

    def __init__(self, abort: Abort) -> None:
        self._abort = abort

    async def intercept_service(self, continuation: Any, details: Any) -> Any:  # noqa: ANN401
        """The call's handler, which gets what has been read."""
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:  # no such method; or it takes bytes
            return handler
        sides = [
            "stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming)
        ]
        behaviour = getattr(handler, "_".join(sides))
        if inspect.isasyncgenfunction(behaviour):
            behaviour = writing(behaviour)
        if not inspect.iscoroutinefunction(behaviour):  # it would run in a thread: none of ours does
            return handler
        read = Parser(handler.request_deserializer)
        behave = self._streamed(behaviour, read) if handler.request_streaming else self._single(behaviour, read)
        wrap = getattr(grpc, f"stream_{sides[1]}_rpc_method_handler")  # on the wire a single request is a stream of one
        return wrap(behave, None, handler.response_serializer)

    def _single(self, behaviour: Behaviour, parse: "Parser") -> Behaviour:
        async def behave(requests: AsyncIterator[bytes], context: Any) -> Any:  # noqa: ANN401
            try:
                return await behaviour(parse(await _first(requests)), context)
            except OsaiError as e:
                return await self._abort(context, e)

        return behave

    def _streamed(self, behaviour: Behaviour, parse: "Parser") -> Behaviour:
        async def behave(requests: AsyncIterator[bytes], context: Any) -> Any:  # noqa: ANN401
            try:
                return await behaviour(_parsed(requests, parse), context)
            except OsaiError as e:
                return await self._abort(context, e)

        return behave


class Parser:
    """Makes messages of bytes that nobody vouches for.

    Args:
        from_string: protobuf's, of the kind of message that is due.
    """

    def __init__(self, from_string: Callable[[bytes], Any]) -> None:
        self._from_string = from_string
        self._descriptor = from_string(b"").DESCRIPTOR

    def __call__(self, data: bytes) -> Any:  # noqa: ANN401 - of the kind that is due
        """The message.

        Raises:
            PeerError: if the bytes are none, or would swell (B3).
        """
        check_bulk(data, self._descriptor)
        try:
            return self._from_string(data)
        except DecodeError as e:
            raise PeerError(f"what came is no {self._descriptor.name}: is the peer an osai member?") from e


async def _first(requests: AsyncIterator[bytes]) -> bytes:
    try:
        async with asyncio.timeout(REQUEST_DEADLINE_S):  # B6
            first = await anext(requests, None)
    except TimeoutError as e:
        raise DeadlineExceededError(f"the request did not come within {REQUEST_DEADLINE_S:.0f} s") from e
    if first is None:
        raise InvalidRequestError("the call ended without a request")
    return first


async def _parsed(requests: AsyncIterator[bytes], parse: Parser) -> AsyncIterator[Any]:
    async for data in requests:
        yield parse(data)


def writing(generator: Callable[[Any, Any], AsyncIterator[Any]]) -> Behaviour:
    """A behaviour that writes what an async generator gives."""

    async def behaviour(request: Any, context: Any) -> None:  # noqa: ANN401
        async for response in generator(request, context):
            await context.write(response)

    return behaviour
