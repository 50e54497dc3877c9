"""Channels to coordinators, each greeted before its first use; whatever fails on them comes out typed."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from osai.client.lost import CoordinatorLostError
from osai.core.errors import CancelledError, DeadlineExceededError, OsaiError
from osai.core.protocol import check_hello, hello
from osai.core.rpc import ERROR_METADATA_KEY, error_of, insecure_channel
from osai.proto import client_pb2_grpc

if TYPE_CHECKING:
    from osai.core.private_member import PrivateMember
    from osai.proto.client_pb2_grpc import CoordinatorAsyncStub

log = logging.getLogger(__name__)

R = TypeVar("R")

# Statuses of gRPC's own where a connection breaks or a server goes down; a coordinator's own errors carry metadata.
_BROKEN = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
)


class Connection:
    """One coordinator's channel.

    Attributes:
        version: of the protocol, that both sides speak; 0 before the greeting.
    """

    def __init__(self, address: str, member: "PrivateMember | None" = None) -> None:
        self.address = address
        self.version = 0
        self._member = member
        self._channel = _channel(address, member)
        self._greeted = False

    async def greeted(self, limit_s: float) -> "CoordinatorAsyncStub":
        """The coordinator's calls.

        Raises:
            ProtocolMismatchError: if it speaks another version.
        """
        stub: CoordinatorAsyncStub = client_pb2_grpc.CoordinatorStub(self._channel)
        if not self._greeted and self._member is not None:
            await self._renewed(self._member)
        if not self._greeted:  # calls that begin at once may greet more than once, which does no harm
            self.version = check_hello(await self.within(limit_s, "a greeting", stub.Greet(hello())))
            self._greeted = True
        return stub

    async def _renewed(self, member: "PrivateMember") -> None:
        """A client is there now and then only: its certificate is looked at when it connects."""
        try:
            await member.renew_if_due(self.address)
        except OsaiError as e:
            log.warning("the certificate could not be renewed at %s: %s", self.address, e)

    async def within(self, limit_s: float, what: str, answer: Awaitable[R]) -> R:
        """Wait for one answer.

        Raises:
            CoordinatorLostError: if the connection can't be made, or broke.
            DeadlineExceededError: if the answer takes longer than `limit_s`.
            CancelledError: if the client was closed meanwhile.
        """
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError as e:
            self._greeted = False
            raise DeadlineExceededError(
                f"{self.address} did not send {what} within {limit_s:g} s: try again, or allow more time"
            ) from e
        except grpc.aio.AioRpcError as e:
            raise self._typed(e) from e
        except asyncio.CancelledError as e:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise closed() from e

    def _typed(self, failure: grpc.aio.AioRpcError) -> OsaiError:
        error = error_of(failure, self.address)
        if failure.code() not in _BROKEN or any(key == ERROR_METADATA_KEY for key, _ in failure.trailing_metadata()):
            return error
        self._greeted = False  # another coordinator may answer here the next time
        return CoordinatorLostError(error.message)

    async def close(self) -> None:
        """Hang up; its calls are cancelled."""
        await self._channel.close()


class Connections:
    """The channels of one client, until it is closed. Made inside a running loop.

    Args:
        member: the client's place in a private swarm; None in a public one.
    """

    def __init__(self, member: "PrivateMember | None" = None) -> None:
        self._member = member
        self._by_address: dict[str, Connection] = {}
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether the client was closed: nothing more may be asked."""
        return self._closed.is_set()

    def to(self, address: str) -> Connection:
        """The connection to one coordinator.

        Raises:
            CancelledError: if the client was closed.
        """
        if self.closed:
            raise closed()
        if address not in self._by_address:
            self._by_address[address] = Connection(address, self._member)
        return self._by_address[address]

    async def pause(self, delay_s: float) -> None:
        """Wait.

        Raises:
            CancelledError: if the client is closed meanwhile.
        """
        try:
            async with asyncio.timeout(delay_s):
                await self._closed.wait()
        except TimeoutError:
            return
        raise closed()

    async def close(self) -> None:
        """Hang up everywhere."""
        self._closed.set()
        for connection in self._by_address.values():
            await connection.close()


def closed() -> CancelledError:
    """What a call is told whose client was closed."""
    return CancelledError("the client was closed before the call had ended")


def _channel(address: str, member: "PrivateMember | None") -> grpc.aio.Channel:
    if member is None:
        return insecure_channel(address)
    # these take a tenth of a second to import: only for those who are in a private swarm
    from osai.core.admission.roles import Role  # noqa: PLC0415
    from osai.core.member_channel import member_channel  # noqa: PLC0415

    return member_channel(address, member.tls, Role.COORDINATOR)
