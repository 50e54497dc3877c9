"""The standard gRPC services that every osai server offers beside its own: health and reflection."""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from osai.core.rpc import error_of, insecure_channel


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


async def is_serving(address: str, timeout_s: float) -> bool:
    """Ask the server at `address` whether it takes work.

    Raises:
        OsaiError: if it can't be asked.
    """
    async with insecure_channel(address) as channel:
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
