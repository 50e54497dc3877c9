"""The asynchronous client of a coordinator."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from osai.client.api_key import api_key_of
from osai.client.completion import CompletionBuilder
from osai.client.connection import Connections
from osai.client.events import Completion, GenerationEvent
from osai.client.generation import GenerationRun
from osai.client.lost import CoordinatorLostError, nobody_reached
from osai.client.private import find_member
from osai.client.request import GenerationOptions, Prompt, to_proto
from osai.client.roster import GivenCoordinators, Roster
from osai.client.swarm import Model, Swarm
from osai.client.swarm_wire import model_of, swarm_of
from osai.client.timeouts import Timeouts
from osai.core.errors import DeadlineExceededError, OsaiError
from osai.proto import client_pb2

if TYPE_CHECKING:
    from osai.proto.client_pb2_grpc import CoordinatorAsyncStub

R = TypeVar("R")


class AsyncClient:
    """Speaks to a swarm's coordinators; an async context manager. It connects and greets on the first call.

    Each call goes to the coordinator that answered last. If that one can't be reached, the others are asked: those that
    were given, and those that any of them told of. A generation outlives its coordinator (see `generate`).

    Every method raises a typed `osai.core.errors.OsaiError`: UnavailableError where no coordinator can be reached,
    ProtocolMismatchError where it speaks another version, DeadlineExceededError where a wait ran out,
    UnauthenticatedError and ForbiddenError where it asks for an API key, or for another one.

    Args:
        address: HOST:PORT of a coordinator, or of several.
        timeouts: deadlines of the waits.
        api_key: for coordinators that ask for one; default: that of the environment, OSAI_API_KEY. Outside a private
            swarm only the coordinators that `address` names get to see it, so name all that take it.

    Raises:
        InvalidRequestError: if an address or the key has another form.
    """

    def __init__(
        self, address: str | Sequence[str], *, timeouts: Timeouts | None = None, api_key: str | None = None
    ) -> None:
        self._roster = Roster([address] if isinstance(address, str) else address)
        self._timeouts = timeouts or Timeouts()
        self._api_key = api_key_of(api_key)
        self._named = self._roster.addresses
        self._open: Connections | None = None  # made on the first call, when a loop runs

    @property
    def address(self) -> str:
        """HOST:PORT of the coordinator that is asked first: that answered last."""
        return self._roster.preferred

    @property
    def coordinators(self) -> tuple[str, ...]:
        """HOST:PORT of all coordinators that are known."""
        return self._roster.addresses

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up; generations that still run are cancelled."""
        connections, self._open = self._open, None
        if connections is not None:
            await connections.close()

    async def generate(
        self, prompt: Prompt, *, timeouts: Timeouts | None = None, **options: Unpack[GenerationOptions]
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Run one generation: one Started, any number of Chunks, one Finished; Rerouted and Waiting in between.

        If its coordinator is lost, another one goes on with it, or the same once it is back, within
        `Timeouts.resume_s`: tokens and text go on where they were, and Rerouted tells of it.

        Closing the iterator (`aclosing`, `aclose`), or cancelling the task, cancels the generation.

        Args:
            prompt: text, token ids, or a chat for the model's template.
            timeouts: deadlines for this generation alone.
            options: see GenerationOptions.

        Raises:
            OsaiError: the typed reason why it can't start or go on; nothing follows it. Its attribute `partial`, also
                `partial_of(error)`, is a Completion of what was generated, None where no token was.
        """
        request, connections = to_proto(prompt, options), self._connections()
        # O7: anybody may run a coordinator of a public swarm, and would be shown the prompt
        limited = bool(request.trusted_operators) and not connections.private
        roster = GivenCoordinators(self._roster) if limited else self._roster
        run = GenerationRun(connections, roster, request, timeouts or self._timeouts)
        async with aclosing(run.events()) as events:
            async for event in events:
                yield event
        self._roster.preferred = roster.preferred

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
        answer = await self._ask("its models", lambda stub: stub.ListModels(client_pb2.ListModelsRequest()))
        return tuple(model_of(model) for model in answer.models)

    async def swarm(self) -> Swarm:
        """The swarm as the coordinator sees it: models and nodes."""
        answer = await self._ask("its swarm", lambda stub: stub.GetSwarm(client_pb2.GetSwarmRequest()))
        self._roster.learn(answer.coordinators)
        return swarm_of(answer)

    async def _ask(self, what: str, call: "Callable[[CoordinatorAsyncStub], Awaitable[R]]") -> R:
        """A short answer of the first coordinator that gives it."""
        connections = self._connections()
        failures: dict[str, OsaiError] = {}
        for address in self._roster.ring(self._roster.preferred):
            connection = connections.to(address)
            try:
                stub = await connection.greeted(self._timeouts.connect_s)
                answer = await connection.within(self._timeouts.call_s, what, call(stub))
            except (CoordinatorLostError, DeadlineExceededError) as e:
                failures[address] = e
            else:
                self._roster.preferred = address
                return answer
        raise nobody_reached(failures)

    def _connections(self) -> Connections:
        if self._open is None:
            self._open = Connections(find_member(self._roster.addresses), self._api_key, self._named)
        return self._open
