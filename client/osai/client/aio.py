"""The asynchronous client of a coordinator."""

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar, Unpack

from osai.client.api_key import api_key_of
from osai.client.completion import CompletionBuilder
from osai.client.connection import Connection, Connections
from osai.client.events import Completion, Embedding, GenerationEvent
from osai.client.generation import GenerationRun
from osai.client.lost import CoordinatorLostError, nobody_reached
from osai.client.private import find_member, note_addresses
from osai.client.request import GenerationOptions, Prompt, check_version, embed_to_proto, to_proto
from osai.client.retries import Attempts, Retries, RetryBudget
from osai.client.roster import GivenCoordinators, Roster
from osai.client.search import UNFIT
from osai.client.swarm import Model, Swarm
from osai.client.swarm_wire import model_of, swarm_of
from osai.client.timeouts import Timeouts
from osai.client.wire import embedding_of
from osai.core.errors import DeadlineExceededError, OsaiError, SetupError
from osai.proto import client_pb2

if TYPE_CHECKING:
    from osai.proto.client_pb2_grpc import CoordinatorAsyncStub

R = TypeVar("R")


class AsyncClient:
    """Speaks to a swarm's coordinators; an async context manager. It connects and greets on the first call.

    Each call goes to the coordinator that answered last. If that one can't be reached, the others are asked: those that
    were given, and those that any of them told of. A generation outlives its coordinator (see `generate`). What failed
    before it gave anything, and may pass, is tried again within bounds (see `Retries`).

    Every method raises a typed `osai.core.errors.OsaiError`: UnavailableError where no coordinator can be reached,
    ProtocolMismatchError where it speaks another version, DeadlineExceededError where a wait ran out,
    UnauthenticatedError and ForbiddenError where it asks for an API key, or for another one.

    Args:
        address: HOST:PORT of a coordinator, or of several.
        timeouts: deadlines of the waits.
        api_key: for coordinators that ask for one; default: that of the environment, OSAI_API_KEY. Outside a private
            swarm only the coordinators that `address` names get to see it, so name all that take it.
        retries: bounds of what is tried again.
        rng: where waits draw their jitter from.

    Raises:
        InvalidRequestError: if an address or the key has another form.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeouts: Timeouts | None = None,
        api_key: str | None = None,
        retries: Retries | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._roster = Roster([address] if isinstance(address, str) else address)
        self._timeouts = timeouts or Timeouts()
        self._api_key = api_key_of(api_key)
        self._named = self._roster.addresses
        self._retries = retries or Retries()
        self._budget = RetryBudget(self._retries)
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
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
            if connections.member is not None:  # they were told of over its connections: it is known there from now on
                with suppress(SetupError):  # where nothing can be written, it is known as before
                    note_addresses(connections.member, self._roster.learned)

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
        attempts, jitter = self._attempts(), self._rng.random
        run = GenerationRun(connections, roster, request, timeouts or self._timeouts, attempts, jitter)
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

    async def embed(
        self,
        prompt: str | Sequence[int],
        *,
        model_id: str = "",
        pooling: Literal["mean", "last"] = "mean",
        trusted_only: Sequence[str | bytes] | None = None,
        timeouts: Timeouts | None = None,
    ) -> Embedding:
        """The vector of a prompt: its tokens' last hidden states after the final norm, pooled, of length 1.

        Args:
            prompt: a text or token ids.
            model_id: may be left out where the swarm serves exactly one model.
            pooling: "mean" over the prompt's tokens, or its "last" one.
            trusted_only: as of GenerationOptions.
            timeouts: instead of the client's own; a vector is waited for as long as a first token.

        Raises:
            OsaiError: why there is none; ProtocolMismatchError where a coordinator is too old to make any.
        """
        request = embed_to_proto(prompt, model_id, pooling, trusted_only)
        waits = timeouts or self._timeouts
        answer = await self._ask("the embedding", lambda stub: stub.Embed(request), waits.first_token_s, request)
        return embedding_of(answer)

    async def models(self) -> tuple[Model, ...]:
        """The models that the swarm serves."""
        answer = await self._ask("its models", lambda stub: stub.ListModels(client_pb2.ListModelsRequest()))
        return tuple(model_of(model) for model in answer.models)

    async def swarm(self) -> Swarm:
        """The swarm as the coordinator sees it: models and nodes."""
        answer = await self._ask("its swarm", lambda stub: stub.GetSwarm(client_pb2.GetSwarmRequest()))
        self._roster.learn(answer.coordinators)
        return swarm_of(answer)

    async def _ask(
        self,
        what: str,
        call: "Callable[[CoordinatorAsyncStub], Awaitable[R]]",
        limit_s: float | None = None,
        request: client_pb2.EmbedRequest | None = None,
    ) -> R:
        """One answer, after some attempts perhaps: such a question changes nothing and may be asked again.

        Args:
            what: it is, for messages.
            call: asks one coordinator.
            limit_s: for each; default: that of a short answer.
            request: what is asked, if not every coordinator can answer it, or may see it.
        """
        attempts = self._attempts()
        while True:
            try:
                answer = await self._ask_each(what, call, limit_s or self._timeouts.call_s, request)
            except OsaiError as e:
                delay_s = attempts.failed(e, time.monotonic())
                if delay_s is None:
                    raise
                await self._connections().pause(delay_s)
            else:
                attempts.succeeded()
                return answer

    async def _ask_each(
        self,
        what: str,
        call: "Callable[[CoordinatorAsyncStub], Awaitable[R]]",
        limit_s: float,
        request: client_pb2.EmbedRequest | None,
    ) -> R:
        """The answer of the first coordinator that gives it."""
        connections = self._connections()
        failures: dict[str, OsaiError] = {}
        unfit: OsaiError | None = None
        limited = request is not None and bool(request.trusted_operators) and not connections.private  # O7
        roster = GivenCoordinators(self._roster) if limited else self._roster
        for address in roster.ring(roster.preferred):
            connection = connections.to(address)
            try:
                stub = await self._able(connection, request)
                answer = await connection.within(limit_s, what, call(stub))
            except (CoordinatorLostError, DeadlineExceededError) as e:
                failures[address] = e
            except UNFIT as e:
                unfit = unfit or e
            else:
                self._roster.preferred = address
                return answer
        raise unfit or nobody_reached(failures)

    async def _able(self, connection: Connection, request: client_pb2.EmbedRequest | None) -> "CoordinatorAsyncStub":
        """A coordinator's calls, once it is known that it can answer the request."""
        if request is not None:
            connection.greet_anew()
        stub = await connection.greeted(self._timeouts.connect_s)
        if request is not None:
            check_version(request, connection.address, connection.version)
        return stub

    def _attempts(self) -> Attempts:
        return Attempts(self._retries, self._budget, self._rng.random, time.monotonic())

    def _connections(self) -> Connections:
        if self._open is None:
            self._open = Connections(find_member(self._roster.addresses), self._api_key, self._named)
        return self._open
