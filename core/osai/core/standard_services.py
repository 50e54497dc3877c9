"""The standard gRPC services that every osai server offers beside its own: health and reflection."""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from osai.core.admission.roles import Role
from osai.core.member_channel import member_channel
from osai.core.member_tls import MemberTls
from osai.core.rpc import error_of


class Health:
    """The server's health, as load balancers and container engines ask for it."""

    def __init__(self, servicer: health.aio.HealthServicer) -> None:
        self._servicer = servicer

    async def set_serving(self, *, serving: bool) -> None:
        """Say whether this server takes work."""
        status = health_pb2.HealthCheckResponse
        await self._servicer.set("", status.SERVING if serving else status.NOT_SERVING)


async def add_standard_services(server: grpc.aio.Server, service_names: Sequence[str]) -> Health:
    """Add health (not serving yet) and reflection of `service_names` to a server."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (*service_names, "grpc.health.v1.Health", reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    switch = Health(servicer)
    await switch.set_serving(serving=False)
    return switch


async def is_serving(address: str, timeout_s: float, tls: MemberTls | None = None) -> bool:
    """Ask the server at `address` whether it takes work.

    Args:
        address: HOST:PORT.
        timeout_s: for the answer.
        tls: of that very member, in a private swarm: it asks itself.

    Raises:
        OsaiError: if it can't be asked.
    """
    async with member_channel(address, tls, tls.me.role if tls else Role.NODE) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as e:
            raise error_of(e, address) from e
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
