"""Runs one generation to its end, over as many coordinators as it takes."""

import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from osai.client.connection import Connection, Connections, closed
from osai.client.events import Chunk, GenerationEvent, Waiting
from osai.client.lost import CoordinatorLostError
from osai.client.progress import Progress
from osai.client.roster import Roster
from osai.client.search import Search
from osai.client.timeouts import Timeouts
from osai.core.errors import OsaiError, ProtocolMismatchError
from osai.proto import client_pb2

if TYPE_CHECKING:
    import grpc.aio

    Call = grpc.aio.UnaryStreamCall[client_pb2.GenerateRequest, client_pb2.GenerateEvent]

RESUME_VERSION = 2  # of the protocol: coordinators of it go on with others' sessions
OPERATORS_VERSION = 3  # of the protocol: coordinators of it keep to the operators that a request names
MAX_WAITING_S = 3600.0  # of what a coordinator says that it waits


class GenerationRun:
    """The shell around `Search` (whom to ask) and `Progress` (what there is)."""

    def __init__(
        self, connections: Connections, roster: Roster, request: client_pb2.GenerateRequest, waits: Timeouts
    ) -> None:
        self._connections = connections
        self._roster = roster
        self._waits = waits
        self._progress = Progress(request, time.monotonic())
        self._search = Search(roster, waits.resume_s, random.random)
        self._begun = False  # the coordinator in hand has taken the request
        self._waiting_s = 0.0  # more than usual, as the coordinator said last
        self._told_of_loss = False

    async def events(self) -> AsyncGenerator[GenerationEvent, None]:
        """One Started, Chunks, one Finished; Rerouted and Waiting in between.

        Raises:
            OsaiError: why it can't start or go on; its attribute `partial` has what was generated.
        """
        try:
            while True:
                try:
                    async with aclosing(self._asked()) as events:
                        async for event in events:
                            yield event
                except OsaiError as e:
                    failure = e
                else:
                    return
                delay_s = self._failed(failure)
                if (notice := self._notice(failure, delay_s)) is not None:
                    yield notice
                await self._connections.pause(delay_s)
        except OsaiError as e:
            self._progress.failed(e)
            raise

    async def _asked(self) -> AsyncGenerator[GenerationEvent, None]:
        """What the coordinator at hand answers."""
        self._begun = False
        self._waiting_s = 0.0
        connection = self._connections.to(self._search.address)
        if self._progress.is_limited:
            connection.greet_anew()
        stub = await connection.greeted(self._search.connect_s(self._waits.connect_s, time.monotonic()))
        if self._progress.started is not None and connection.version < RESUME_VERSION:
            raise ProtocolMismatchError(
                f"{connection.address} speaks protocol {connection.version}: upgrade it to resume"
            )
        if self._progress.is_limited and connection.version < OPERATORS_VERSION:  # O7: it would not know of them
            raise ProtocolMismatchError(
                f"{connection.address} speaks protocol {connection.version} and can't keep to trusted operators: "
                "upgrade it; it was not sent the prompt"
            )
        call = stub.Generate(self._progress.next_request())
        self._begun = True
        try:
            while True:
                told = await self._next(connection, call)
                if not isinstance(told, client_pb2.GenerateEvent):  # grpc.aio.EOF
                    break
                yield self._taken(told)
            self._progress.stream.end()
        except CoordinatorLostError:
            if not self._progress.stream.finished:  # else it went when all was said
                raise
        finally:
            call.cancel()  # does nothing to a call that has ended

    async def _next(self, connection: Connection, call: "Call") -> object:
        going = self._progress.stream.num_new_tokens > 0
        limit_s = (self._waits.next_token_s if going else self._waits.first_token_s) + self._waiting_s
        return await connection.within(limit_s, "the next token" if going else "the first token", call.read())

    def _taken(self, told: client_pb2.GenerateEvent) -> GenerationEvent:
        now_s = time.monotonic()
        event = self._progress.accept(told, now_s)
        self._waiting_s = min(event.remaining_s, MAX_WAITING_S) if isinstance(event, Waiting) else 0.0
        if told.HasField("started"):
            self._search.held(now_s)
            self._roster.learn(told.started.coordinators)
            self._told_of_loss = False
        elif isinstance(event, Chunk) and event.tokens:
            self._search.progressed()
        return event

    def _failed(self, error: OsaiError) -> float:
        """Seconds to wait before the next try; raises what is to be told where there is none."""
        if self._connections.closed:
            raise closed() from error
        now_s = time.monotonic()
        started = self._begun and self._progress.stream.started
        delay_s = self._search.failed(error, now_s, begun=self._begun, started=started)
        self._progress.lost(error, now_s)
        return delay_s

    def _notice(self, error: OsaiError, delay_s: float) -> Waiting | None:
        """Tells once a loss, if it is not made good at once; a caller that has seen nothing yet misses nothing."""
        if not delay_s or self._told_of_loss or self._progress.started is None:
            return None
        self._told_of_loss = True
        return Waiting(reason=error.message, remaining_s=self._search.remaining_s(time.monotonic()))
