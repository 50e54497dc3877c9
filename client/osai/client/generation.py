"""Runs one generation to its end, over as many coordinators as it takes."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from osai.client.connection import Connection, Connections, closed
from osai.client.events import Chunk, GenerationEvent, Waiting
from osai.client.lost import CoordinatorLostError
from osai.client.progress import Progress
from osai.client.retries import Attempts
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
TOLD_WAIT_S = 2.0  # a wait for the next attempt that people would wonder at


class GenerationRun:
    """The shell around `Search` (whom to ask), `Attempts` (whether once more) and `Progress` (what there is)."""

    def __init__(
        self,
        connections: Connections,
        roster: Roster,
        request: client_pb2.GenerateRequest,
        waits: Timeouts,
        attempts: Attempts,
        jitter: Callable[[], float],
    ) -> None:
        self._connections = connections
        self._roster = roster
        self._waits = waits
        self._jitter = jitter
        self._attempts = attempts
        self._progress = Progress(request, time.monotonic())
        self._search = Search(roster, waits.resume_s, jitter)
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
                delay_s, notice = self._failed(failure)
                if notice is not None:
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
        if self._progress.is_limited or self._progress.has_features:
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
        self._progress.check_version(connection.address, connection.version)
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
            if event.index == 0:
                self._attempts.succeeded()
        return event

    def _failed(self, error: OsaiError) -> tuple[float, Waiting | None]:
        """Seconds to wait before the next try, and what to tell of it; raises what ends it where there is none."""
        if self._connections.closed:
            raise closed() from error
        now_s = time.monotonic()
        started = self._begun and self._progress.stream.started
        try:
            delay_s = self._search.failed(error, now_s, begun=self._begun, started=started)
            notice = self._notice(error, delay_s)
            self._progress.lost(f"it goes on by another coordinator: {error.message}", now_s)
        except OsaiError as e:
            retry_s = self._retry_s(e, now_s)
            if retry_s is None:
                raise
            delay_s, notice = retry_s, self._retry_notice(e, retry_s, now_s)
            self._progress.lost(f"it was asked for once more: {e.message}", now_s)
        return delay_s, notice

    def _retry_s(self, error: OsaiError, now_s: float) -> float | None:
        """Seconds after which it is asked for once more; None: never.

        Never once there is a token, or a coordinator was lost: then it is gone on with, within bounds of its own.
        """
        held = self._progress.started is not None and not self._waits.resume_s
        if held or self._search.lost or self._progress.has_tokens:
            return None
        delay_s = self._attempts.failed(error, now_s)
        if delay_s is not None:
            self._search = Search(self._roster, self._waits.resume_s, self._jitter)
        return delay_s

    def _retry_notice(self, error: OsaiError, delay_s: float, now_s: float) -> Waiting | None:
        """A short wait is not worth a word."""
        if delay_s < TOLD_WAIT_S:
            return None
        return Waiting(reason=error.message, remaining_s=self._attempts.remaining_s(now_s))

    def _notice(self, error: OsaiError, delay_s: float) -> Waiting | None:
        """Tells once a loss, if it is not made good at once; a caller that has seen nothing yet misses nothing."""
        if not delay_s or self._told_of_loss or self._progress.started is None:
            return None
        self._told_of_loss = True
        return Waiting(reason=error.message, remaining_s=self._search.remaining_s(time.monotonic()))
