"""Calls of clients over the simulated network: from production's GenerationRun to its ClientService."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
from scripts.simulation.connection import End
from scripts.simulation.edge import host_at, resolve
from scripts.simulation.hosts import Host
from scripts.simulation.network import Network

from osai.client.connection import Connections
from osai.client.lost import CoordinatorLostError
from osai.coordinator.client_service import ClientService
from osai.core.errors import DeadlineExceededError, OsaiError, from_proto
from osai.core.protocol import PROTOCOL_VERSION
from osai.core.rpc import ERROR_METADATA_KEY
from osai.proto import client_pb2, common_pb2

CLIENT = "client"
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over: complete, or with an error."""

    error: OsaiError | None


class _AbortedError(Exception):
    """Leaves ClientService, as grpc's own does."""


class _Context:
    """What ClientService sees of one call."""

    def __init__(self, end: End) -> None:
        self._end = end

    def peer(self) -> str:
        """Who calls."""
        return self._end.peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the caller sends along: nothing."""
        return ()

    async def write(self, event: client_pb2.GenerateEvent) -> None:
        """Send an event."""
        self._end.send(event)

    async def abort(self, _code: object, _details: str, trailing_metadata: tuple[tuple[str, bytes], ...]) -> None:
        """End the call with an error."""
        wire = dict(trailing_metadata)[ERROR_METADATA_KEY]
        self._end.send(Ended(from_proto(common_pb2.Error.FromString(wire))))
        raise _AbortedError


class ClientServer:
    """Takes clients' calls at a coordinator.

    Args:
        service: runs them.
        start: starts a task of the coordinator's.
    """

    def __init__(
        self, service: ClientService, start: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
    ) -> None:
        self._service = service
        self._start = start

    def accept(self, end: End) -> None:
        """A client has connected: one call."""
        end.on_message = lambda request: self._called(end, request)

    def _called(self, end: End, request: client_pb2.GenerateRequest) -> None:
        task = self._start(self._run(end, request))
        end.on_closed = task.cancel

    async def _run(self, end: End, request: client_pb2.GenerateRequest) -> None:
        try:
            await self._service.Generate(request, _Context(end))
        except _AbortedError:
            return
        end.send(Ended(None))


class _Call:
    """What GenerationRun sees of one call."""

    def __init__(self, end: End, request: client_pb2.GenerateRequest) -> None:
        self._end = end
        self._told: asyncio.Queue[object] = asyncio.Queue()
        end.on_message = self._told.put_nowait
        end.on_closed = lambda: self._told.put_nowait(CoordinatorLostError(f"{end.peer} was lost"))
        end.send(request)

    async def read(self) -> object:
        """The next event, or EOF."""
        told = await self._told.get()
        match told:
            case Ended(error=None):
                return grpc.aio.EOF
            case Ended(error=OsaiError() as error):
                raise error
            case OsaiError():
                raise told
        return told

    def cancel(self) -> None:
        """Hang up."""
        self._end.close()


class _Stub:
    def __init__(self, end: End) -> None:
        self._end = end

    def Generate(self, request: client_pb2.GenerateRequest) -> _Call:  # noqa: N802 - as grpc names it
        """Call."""
        return _Call(self._end, request)


class _Connection:
    """In place of osai.client.connection.Connection."""

    version = PROTOCOL_VERSION

    def __init__(self, network: Network, host: Host, address: str) -> None:
        self.address = address
        self._network = network
        self._host = host

    async def greeted(self, limit_s: float) -> _Stub:
        """Connect, anew for each call."""
        dialled: asyncio.Future[End | None] = asyncio.get_running_loop().create_future()
        self._network.dial(self._host, host_at(self.address), CLIENT, lambda end: resolve(dialled, end))
        end = await self.within(limit_s, "a greeting", dialled)
        if end is None:
            raise CoordinatorLostError(f"{self.address} can't be reached")
        return _Stub(end)

    async def within(self, limit_s: float, what: str, answer: Awaitable[R]) -> R:
        """Wait for one answer, as Connection.within."""
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError as e:
            raise DeadlineExceededError(f"{self.address} did not send {what} within {limit_s:g} s") from e


class SimulatedConnections:
    """In place of osai.client.connection.Connections."""

    closed = False

    def __init__(self, network: Network, host: Host) -> None:
        self._network = network
        self._host = host

    def to(self, address: str) -> _Connection:
        """The connection to one coordinator."""
        return _Connection(self._network, self._host, address)

    async def pause(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)


def connections(network: Network, host: Host) -> Connections:
    """The channels of a client on a host: they look as production's do."""
    return cast("Connections", SimulatedConnections(network, host))
