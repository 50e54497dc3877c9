"""The coordinator's gRPC: one server for whoever comes, or in a private swarm one for members and one for joiners."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc.aio

from osai.coordinator.private.door import private_port
from osai.coordinator.private.place import PrivatePlace
from osai.core.gatekeeper import Gatekeeper
from osai.core.rpc import bind, make_server
from osai.proto import admission_pb2_grpc

AddServices = Callable[[grpc.aio.Server], None]


@asynccontextmanager
async def listening(
    address: str, place: PrivatePlace | None, add_services: AddServices
) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    """Listen on `address`; the server, to be started and stopped by the caller, and the port.

    Args:
        address: HOST:PORT, port 0 for a free one.
        place: in a private swarm; None in a public one.
        add_services: adds what the coordinator serves.

    Raises:
        SetupError: if the address can't be bound.
    """
    if place is None:
        server = make_server()
        add_services(server)
        yield server, bind(server, address)
        return
    members = make_server(interceptors=[Gatekeeper(place.tls)])
    joiners = make_server(interceptors=[Gatekeeper(place.tls, for_joiners=True)])
    add_services(members)
    for each in (members, joiners):
        admission_pb2_grpc.add_AdmissionServicer_to_server(place.admission, each)
    async with private_port(members, joiners, address, place.tls) as port:
        await joiners.start()
        try:
            yield members, port
        finally:
            await joiners.stop(None)
