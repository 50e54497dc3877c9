"""Carries one generation to its HTTP client, and cancels it as soon as that client is gone."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osai.coordinator.api import Chunk, Finished, GenerationEvent, Rerouted, Started, Waiting
from osai.coordinator.gateway.answers import Answer
from osai.coordinator.gateway.errors import Json, http_error
from osai.coordinator.gateway.sse import DONE, encode_events, stream_comment, stream_end, stream_part, stream_start
from osai.core.errors import InternalError, OsaiError, UnavailableError

logger = logging.getLogger(__name__)

STOPPING = "the coordinator is stopping; send the request again, to another coordinator if there is one"
REQUEST_ID = "osai.request_id"  # in the ASGI scope
_LAST_WORD_S = 1.0  # for a client to take the news that the server stops
Events = AsyncGenerator[GenerationEvent, None]


class ClientStalledError(Exception):
    """The client takes nothing any more, and holds its connection open."""


class GenerationResponse(Response):
    """A response that runs its generation while it is sent.

    The generator is closed before the response ends, whatever the way out; a client that goes away ends it at once.
    An error before the first event gets its HTTP status. One in mid-stream becomes an event `{"error": ...}`, and
    the stream ends without `[DONE]`. One that ends a plain answer after tokens has them in `error.partial`.
    """

    def __init__(
        self, events: Events, *, answer_to: Callable[[Started], Answer], stream: bool, send_deadline_s: float
    ) -> None:
        super().__init__()
        self._events = events
        self._answer_to = answer_to
        self._stream = stream
        self._send_deadline_s = send_deadline_s
        self._partial: Json | None = None  # what there is of a plain answer
        self._streaming = False  # the stream's headers are out
        self._ending = False  # the last of the response is on its way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the generation: the ASGI side of a response."""
        try:
            async with asyncio.TaskGroup() as group:
                delivery = group.create_task(self._deliver(scope, receive, _bounded(send, self._send_deadline_s)))
                watch = group.create_task(_cancel_when_gone(receive, delivery))
                delivery.add_done_callback(lambda _: watch.cancel())
        except asyncio.CancelledError:  # the server stops
            if not self._ending:
                with suppress(ClientStalledError):
                    rest = self._error(UnavailableError(STOPPING))
                    await rest(scope, receive, _bounded(send, _LAST_WORD_S))
            raise

    async def _deliver(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            rest = await self._run(send, request_id=scope.get(REQUEST_ID, ""))
            self._ending = True
            # The generator is closed by now: the end of a response looks like a departure, which would cut that short.
            await rest(scope, receive, send)
        except ClientStalledError:
            logger.warning("a client took nothing for %s s; its generation is cancelled", self._send_deadline_s)

    async def _run(self, send: Send, *, request_id: str) -> ASGIApp:
        """Run the generation to its end or error; what is left to send."""
        try:
            async with aclosing(self._events) as events:
                return await (self._pass_on(events, send) if self._stream else self._collect(events))
        except ClientStalledError:
            raise
        except OsaiError as e:
            return self._error(e)
        except (Exception, asyncio.CancelledError) as e:  # the edge of a request
            task = asyncio.current_task()
            if isinstance(e, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # by us; any other comes out of the generation, and is a failure of it
            logger.exception("the generation of request %s failed", request_id)
            return self._error(internal_error(request_id))

    async def _pass_on(self, events: Events, send: Send) -> ASGIApp:
        answer = self._answer_to(await _started(events))
        await send(stream_start())
        self._streaming = True
        await send(stream_part(answer.opening()))
        finished: Finished | None = None
        async for event in events:
            match event:
                case Finished():
                    finished = event
                case Chunk() if pieces := answer.piece(event):
                    await send(stream_part(pieces))
                case Waiting():
                    await send(stream_comment(f"waiting: {event.reason}; given up in {event.remaining_s:.0f} s"))
                case Rerouted():  # without the reason, which may tell a node's address
                    await send(stream_comment(f"rerouted after {event.pause_s:.1f} s"))
        return stream_end(encode_events(answer.closing(_complete(finished))) + DONE)

    async def _collect(self, events: Events) -> ASGIApp:
        answer = self._answer_to(await _started(events))
        chunks: list[Chunk] = []
        finished: Finished | None = None
        try:
            async for event in events:
                match event:
                    case Finished():
                        finished = event
                    case Chunk():
                        chunks.append(event)
            return JSONResponse(answer.whole(chunks, _complete(finished)))
        finally:  # read where an error, or the server's stop, has ended it
            self._partial = answer.partial(chunks) if any(chunk.tokens for chunk in chunks) else None

    def _error(self, error: OsaiError) -> ASGIApp:
        if self._streaming:
            return stream_end(encode_events([http_error(error).body]))
        return error_response(error, self._partial)


def internal_error(request_id: str) -> InternalError:
    """What a client is told of a bug."""
    return InternalError(f"the coordinator failed; its log says more under request id {request_id}")


def error_response(error: OsaiError, partial: Json | None = None) -> JSONResponse:
    """A typed error as a plain response; `partial` is what was generated before it."""
    shape = http_error(error)
    if partial is not None:
        shape.body["error"]["partial"] = partial
    return JSONResponse(shape.body, status_code=shape.status, headers=shape.headers)


async def _started(events: Events) -> Started:
    while isinstance(first := await anext(events, None), Waiting):
        pass  # its status is not known yet
    if not isinstance(first, Started):
        raise InternalError("the generation ended before it started; try again")
    return first


def _complete(finished: Finished | None) -> Finished:
    if finished is None:
        raise InternalError("the generation broke off before it was complete; try again")
    return finished


async def _cancel_when_gone(receive: Receive, delivery: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    delivery.cancel()


def _bounded(send: Send, deadline_s: float) -> Send:
    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await send(message)
        except TimeoutError as e:
            raise ClientStalledError from e

    return bounded
