"""Carries one generation to its HTTP client, and cancels it as soon as that client is gone."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing, suppress

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from osai.coordinator.api import Chunk, Finished, Rerouted, Started, Waiting
from osai.coordinator.gateway.answers import Answer
from osai.coordinator.gateway.error_response import REQUEST_ID, error_response, internal_error
from osai.coordinator.gateway.merging import Events, Indexed, merged
from osai.coordinator.gateway.sse import stream_comment, stream_end, stream_part, stream_start
from osai.core.errors import OsaiError, UnavailableError

logger = logging.getLogger(__name__)

STOPPING = "the coordinator is stopping; send the request again, to another coordinator if there is one"
_LAST_WORD_S = 1.0  # for a client to take the news that the server stops


class ClientStalledError(Exception):
    """The client takes nothing any more, and holds its connection open."""


class GenerationResponse(Response):
    """A response that runs its generations, one a choice, while it is sent.

    Every generator is closed before the response ends, whatever the way out; a client that goes away ends it at once.
    An error before the first event gets its HTTP status. One in mid-stream becomes an event `{"error": ...}`, and
    the stream ends without `[DONE]`. One that ends a plain answer after tokens has them in `error.partial`.
    """

    def __init__(self, runs: Sequence[Events], *, answer: Answer, stream: bool, send_deadline_s: float) -> None:
        super().__init__()
        self._runs = runs
        self._answer = answer
        self._stream = stream
        self._send_deadline_s = send_deadline_s
        self._streaming = False  # the stream's headers are out
        self._ending = False  # the last of the response is on its way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the generation: the ASGI side of a response."""
        try:
            async with asyncio.TaskGroup() as group:
                delivery = group.create_task(self._deliver(scope, receive, _bounded(send, self._send_deadline_s)))
                watch = group.create_task(cancel_when_gone(receive, delivery))
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
        """Run the generations to their end or error; what is left to send."""
        try:
            async with aclosing(merged(self._runs)) as events:
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

    async def _pass_on(self, events: Indexed, send: Send) -> ASGIApp:
        answer = self._answer
        async for index, event in events:
            match event:
                case Chunk():
                    body = answer.chunk(index, event)
                case Finished():
                    body = answer.finished(index, event)
                case Started():
                    body = answer.started(index, event)
                    if not self._streaming:
                        await send(stream_start())
                        self._streaming = True
                case Waiting() | Rerouted():
                    body = _comment(event) if self._streaming else b""  # else the status is not known yet
            if body:
                await send(stream_part(body))
        answer.check_complete()
        return stream_end(answer.end())

    async def _collect(self, events: Indexed) -> ASGIApp:
        answer = self._answer
        async for index, event in events:
            answer.collect(index, event)
        answer.check_complete()
        return JSONResponse(answer.whole())

    def _error(self, error: OsaiError) -> ASGIApp:
        if self._streaming:
            return stream_end(self._answer.failed(error))
        return error_response(error, None if self._stream else self._answer.partial())


def _comment(event: Waiting | Rerouted) -> bytes:
    if isinstance(event, Waiting):
        return stream_comment(f"waiting: {event.reason}; given up in {event.remaining_s:.0f} s")
    return stream_comment(f"rerouted after {event.pause_s:.1f} s")  # without the reason, which may tell an address


async def cancel_when_gone(receive: Receive, delivery: asyncio.Task[None]) -> None:
    """Cancel the task as soon as the client has gone."""
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
