"""Channels to coordinators, each greeted before its first use; whatever fails on them comes out typed."""

import asyncio
import logging
from collections.abc import Awaitable, Collection
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from osai.client.api_key import showing
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

ALLOW_MORE = "try again, or allow more time"
WRONG_ADDRESS = "is the address right, and its machine within reach? Try again, or ask another coordinator"

# Statuses of gRPC's own where a connection breaks or a server goes down; a coordinator's own errors carry metadata.
_BROKEN = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
)


class Connection:
    """One coordinator's channel.

    Args:
        address: HOST:PORT.
        member: the client's place in a private swarm; None in a public one.
        api_key: that its calls show; empty for none.

    Attributes:
        version: of the protocol, that both sides speak; 0 before the greeting.
    """

    def __init__(self, address: str, member: "PrivateMember | None" = None, api_key: str = "") -> None:
        self.address = address
        self.version = 0
        self._api_key = api_key
        self._member = member
        self._channel = _channel(address, member)
        self._shown = member.tls.credentials if member else None
        self._retired: list[grpc.aio.Channel] = []
        self._greeted = False

    def greet_anew(self) -> None:
        """Do not rely on an earlier greeting: the coordinator may have been restarted since, as another release."""
        self._greeted = False

    async def greeted(self, limit_s: float) -> "CoordinatorAsyncStub":
        """The coordinator's calls.

        Raises:
            ProtocolMismatchError: if it speaks another version.
        """
        if self._member is not None:
            await self._show_newest(self._member)
        stub: CoordinatorAsyncStub = client_pb2_grpc.CoordinatorStub(self._channel)
        if not self._greeted:  # calls that begin at once may greet more than once, which does no harm
            theirs = await self.within(limit_s, "a greeting", stub.Greet(hello()), WRONG_ADDRESS)
            self.version = check_hello(theirs)
            self._greeted = True
        return showing(stub, self._api_key) if self._api_key else stub

    async def _show_newest(self, member: "PrivateMember") -> None:
        """Dial anew where there is a newer certificate than the one that this connection shows, and get one if due."""
        if member.is_due:
            try:
                await member.renew_if_due(self.address)
            except OsaiError as e:
                log.warning("the certificate could not be renewed at %s: %s", self.address, e)
        if self._shown is not member.tls.credentials:
            self._retired.append(self._channel)  # its calls go on
            self._channel, self._shown, self._greeted = _channel(self.address, member), member.tls.credentials, False

    async def within(self, limit_s: float, what: str, answer: Awaitable[R], hint: str = ALLOW_MORE) -> R:
        """Wait for one answer. `what` it is, and what to do where it does not come, are for the message.

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
            raise DeadlineExceededError(f"{self.address} did not send {what} within {limit_s:g} s: {hint}") from e
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
        for channel in (self._channel, *self._retired):
            await channel.close()


class Connections:
    """The channels of one client, until it is closed. Made inside a running loop.

    Args:
        member: the client's place in a private swarm; None in a public one.
        api_key: for the coordinators; empty for none.
        named: HOST:PORT of those that the user named.
    """

    def __init__(self, member: "PrivateMember | None" = None, api_key: str = "", named: Collection[str] = ()) -> None:
        self._member = member
        self._api_key = api_key
        self._named = frozenset(named)
        self._by_address: dict[str, Connection] = {}
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether the client was closed: nothing more may be asked."""
        return self._closed.is_set()

    @property
    def member(self) -> "PrivateMember | None":
        """The client's place in a private swarm; None in a public one."""
        return self._member

    @property
    def private(self) -> bool:
        """Whether it is in a private swarm: every coordinator has shown that it belongs there."""
        return self._member is not None

    def to(self, address: str) -> Connection:
        """The connection to one coordinator.

        Raises:
            CancelledError: if the client was closed.
        """
        if self.closed:
            raise closed()
        if address not in self._by_address:
            self._by_address[address] = Connection(address, self._member, self._key_for(address))
        return self._by_address[address]

    def _key_for(self, address: str) -> str:
        """The key, for whom the user named. Others, of which a coordinator told, may be anybody's (A8).

        In a private swarm they are not: each has shown a coordinator's certificate of that swarm.
        """
        return self._api_key if address in self._named or self._member is not None else ""

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
