"""The asynchronous client of a coordinator."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import grpc
import grpc.aio

from osai.client.completion import CompletionBuilder
from osai.client.events import Completion, GenerationEvent, Model, Swarm
from osai.client.request import GenerationOptions, Prompt, to_proto
from osai.client.stream import GenerationStream
from osai.client.timeouts import Timeouts
from osai.client.wire import model_of, swarm_of
from osai.core.errors import CancelledError, DeadlineExceededError, InvalidRequestError, UnavailableError
from osai.core.protocol import check_hello, hello
from osai.core.rpc import error_of, insecure_channel
from osai.proto import client_pb2, client_pb2_grpc

if TYPE_CHECKING:
    from osai.proto.client_pb2_grpc import CoordinatorAsyncStub

R = TypeVar("R")


class AsyncClient:
    """Speaks to one coordinator; an async context manager. It connects and greets on the first call.

    Every method raises a typed `osai.core.errors.OsaiError`: UnavailableError where the coordinator can't be reached or
    is lost, ProtocolMismatchError where it speaks another version, DeadlineExceededError where a wait ran out.

    Args:
        address: HOST:PORT of the coordinator.
        timeouts: deadlines of the waits.

    Raises:
        InvalidRequestError: if the address has another form.
    """

    def __init__(self, address: str, *, timeouts: Timeouts | None = None) -> None:
        _check_address(address)
        self.address = address
        self._timeouts = timeouts or Timeouts()
        self._channel: grpc.aio.Channel | None = None  # made on the first call, when a loop runs
        self._greeted = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up; generations that still run are cancelled."""
        channel, self._channel, self._greeted = self._channel, None, False
        if channel is not None:
            await channel.close()

    async def generate(
        self, prompt: Prompt, *, timeouts: Timeouts | None = None, **options: Unpack[GenerationOptions]
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Run one generation: one Started, any number of Chunks, one Finished.

        Closing the iterator (`aclosing`, `aclose`), or cancelling the task, cancels the generation.

        Args:
            prompt: text, token ids, or a chat for the model's template.
            timeouts: deadlines for this generation alone.
            options: see GenerationOptions.

        Raises:
            OsaiError: the typed reason why it can't start or go on; nothing follows it.
        """
        waits = timeouts or self._timeouts
        request = to_proto(prompt, options)
        stub = await self._greeted_stub(waits.connect_s)
        stream = GenerationStream()
        call = stub.Generate(request)
        try:
            while True:
                limit_s = waits.next_token_s if stream.num_tokens else waits.first_token_s
                what = "the next token" if stream.num_tokens else "the first token"
                event = await self._within(limit_s, what, call.read())
                if not isinstance(event, client_pb2.GenerateEvent):  # grpc.aio.EOF
                    break
                yield stream.accept(event)
            stream.end()
        finally:
            call.cancel()  # does nothing to a call that has ended

    async def complete(
        self, prompt: Prompt, *, timeouts: Timeouts | None = None, **options: Unpack[GenerationOptions]
    ) -> Completion:
        """Run one generation to its end; arguments and errors as of `generate`."""
        builder = CompletionBuilder(with_logprobs=options.get("num_logprobs") is not None)
        async with aclosing(self.generate(prompt, timeouts=timeouts, **options)) as events:
            async for event in events:
                builder.add(event)
        return builder.completion()

    async def models(self) -> tuple[Model, ...]:
        """The models that the swarm serves."""
        stub = await self._greeted_stub(self._timeouts.connect_s)
        answer = await self._within(
            self._timeouts.call_s, "its models", stub.ListModels(client_pb2.ListModelsRequest())
        )
        return tuple(model_of(model) for model in answer.models)

    async def swarm(self) -> Swarm:
        """The swarm as this coordinator sees it: models and nodes."""
        stub = await self._greeted_stub(self._timeouts.connect_s)
        answer = await self._within(self._timeouts.call_s, "its swarm", stub.GetSwarm(client_pb2.GetSwarmRequest()))
        return swarm_of(answer)

    async def _greeted_stub(self, connect_s: float) -> "CoordinatorAsyncStub":
        if self._channel is None:
            self._channel = insecure_channel(self.address)
        stub: CoordinatorAsyncStub = client_pb2_grpc.CoordinatorStub(self._channel)
        if not self._greeted:  # calls that begin at once may greet more than once, which does no harm
            check_hello(await self._within(connect_s, "a greeting", stub.Greet(hello())))
            self._greeted = True
        return stub

    async def _within(self, limit_s: float, what: str, answer: Awaitable[R]) -> R:
        """Wait for one answer; every failure comes out typed."""
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError as e:
            self._greeted = False
            raise DeadlineExceededError(
                f"{self.address} did not send {what} within {limit_s:g} s: try again, or allow more time"
            ) from e
        except grpc.aio.AioRpcError as e:
            error = error_of(e, self.address)
            if isinstance(error, UnavailableError):
                self._greeted = False  # another coordinator may answer here the next time
            raise error from e
        except asyncio.CancelledError as e:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise CancelledError("the client was closed before the call had ended") from e  # by `close`


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise InvalidRequestError(f"{address!r} is no coordinator's address; write HOST:PORT, as in 127.0.0.1:7070")
