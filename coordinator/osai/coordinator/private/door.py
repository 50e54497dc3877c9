"""The coordinator's port in a private swarm: members with certificates, and joiners with tokens, at one address."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from osai.core.admission.roles import JOIN_NAME
from osai.core.enrolment import AUTHORITY_PREFIX
from osai.core.member_tls import MemberTls
from osai.core.port.client_hello import private_hello
from osai.core.port.port import Connection, Handler, Port, spliced_to
from osai.core.rpc import bind


class Door:
    """Tells connections apart; see osai.core.port.port.

    Args:
        members: path of the socket where the server for members listens.
        joiners: that of the server for joiners.
        authority_pem: the swarm's certificate, for whoever asks.
    """

    def __init__(self, members: str, joiners: str, authority_pem: bytes) -> None:
        self._members = spliced_to(members)
        self._joiners = spliced_to(joiners)
        self._authority_pem = authority_pem

    def classify(self, seen: bytes) -> Handler | None:
        """Who takes a connection that begins so.

        Raises:
            PeerError: if nobody does.
        """
        if AUTHORITY_PREFIX.startswith(seen[: len(AUTHORITY_PREFIX)]):
            return self._tell_authority if len(seen) >= len(AUTHORITY_PREFIX) else None
        hello = private_hello(seen)
        if hello is None:
            return None
        return self._joiners if hello.server_name == JOIN_NAME else self._members

    async def _tell_authority(self, connection: Connection) -> None:
        connection.transport.write(self._authority_pem)
        connection.transport.close()


@asynccontextmanager
async def private_port(
    members: grpc.aio.Server, joiners: grpc.aio.Server, address: str, tls: MemberTls
) -> AsyncIterator[int]:
    """Listen on `address` for both servers, which are to be started by the caller; the port's number.

    Raises:
        SetupError: if the address can't be bound.
    """
    with tempfile.TemporaryDirectory(prefix="osai-") as folder:
        for_members, for_joiners = str(Path(folder) / "members"), str(Path(folder) / "joiners")
        bind(members, f"unix:{for_members}", tls.server_credentials())
        bind(joiners, f"unix:{for_joiners}", tls.joiner_credentials())
        door = Door(for_members, for_joiners, tls.credentials.anchor.pem)
        async with Port.listening(address, door.classify) as port:
            yield port.number
