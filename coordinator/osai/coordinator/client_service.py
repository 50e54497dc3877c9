"""The gRPC service for clients."""

import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Never

from osai.coordinator.api import GenerationEvent, Generations, Rerouted, Started, SwarmView, Waiting
from osai.coordinator.client_wire import (
    read_embedding_request,
    read_request,
    write_embedding,
    write_event,
    write_models,
    write_swarm,
)
from osai.coordinator.keys.api_key import Scope
from osai.coordinator.keys.caller import Caller, caller_of
from osai.coordinator.keys.keyring import Keyring
from osai.coordinator.tracing.incoming import HEADER, take_caller
from osai.core.errors import InternalError, InvalidRequestError, OsaiError
from osai.core.protocol import check_hello, hello
from osai.core.rpc import abort
from osai.proto import client_pb2, client_pb2_grpc, common_pb2

log = logging.getLogger(__name__)

NOTICES_VERSION = 2  # of the protocol: clients of it know Rerouted and Waiting


class ClientService(client_pb2_grpc.CoordinatorServicer):
    """Serves osai.v1.Coordinator.

    Args:
        coordinator_id: named in the greeting.
        generations: the coordinator behind it.
        draw_seed: gives a seed to a request that names none.
        keyring: the API keys that every call but Greet asks for, in the metadata `authorization`; None: none does.
    """

    def __init__(
        self,
        coordinator_id: str,
        generations: Generations,
        draw_seed: Callable[[], int],
        keyring: Keyring | None = None,
    ) -> None:
        self._coordinator_id = coordinator_id
        self._generations = generations
        self._draw_seed = draw_seed
        self._keyring = keyring

    async def Greet(self, request: common_pb2.Hello, context: Any) -> common_pb2.Hello:  # noqa: N802, ANN401
        """Exchange versions."""
        try:
            check_hello(request)
        except OsaiError as e:
            log.warning("refused %s: %s", context.peer(), e)
            await abort(context, e)
        return hello(self._coordinator_id)

    async def Generate(self, request: client_pb2.GenerateRequest, context: Any) -> None:  # type: ignore[override] # noqa: N802, ANN401
        """Run one generation; the call's cancellation, also by a lost connection, cancels it."""
        try:
            generations = self._caller(context).generations(self._generations)
            wanted = read_request(request, self._draw_seed, self._contexts(request))
            async with aclosing(generations.generate(wanted)) as events:
                async for event in events:
                    if request.protocol_version >= NOTICES_VERSION or not isinstance(event, Rerouted | Waiting):
                        await context.write(write_event(event, self._coordinators(event)))
        except Exception as e:  # noqa: BLE001 - logged there
            await _fail(context, e, "generation")

    async def Embed(self, request: client_pb2.EmbedRequest, context: Any) -> client_pb2.EmbedResponse:  # noqa: N802, ANN401
        """The vector of one prompt; the call's cancellation cancels it."""
        try:
            generations = self._caller(context).generations(self._generations)
            return write_embedding(await generations.embed(read_embedding_request(request)))
        except Exception as e:  # noqa: BLE001 - logged there
            await _fail(context, e, "embedding")

    def _contexts(self, request: client_pb2.GenerateRequest) -> dict[str, int]:
        """What each model's context holds, where it matters."""
        models = self._generations.swarm().models if request.HasField("resume") else ()
        return {model.model_id: model.max_context for model in models}

    def _coordinators(self, event: GenerationEvent) -> tuple[str, ...]:
        """Whom the session can go on with, said once, at its start."""
        return self._generations.swarm().coordinators if isinstance(event, Started) else ()

    async def ListModels(self, request: client_pb2.ListModelsRequest, context: Any) -> client_pb2.ListModelsResponse:  # noqa: ARG002, N802, ANN401
        """Models that are served."""
        return client_pb2.ListModelsResponse(models=write_models((await self._view(context, Scope.MODELS)).models))

    async def GetSwarm(self, request: client_pb2.GetSwarmRequest, context: Any) -> client_pb2.GetSwarmResponse:  # noqa: ARG002, N802, ANN401
        """The swarm as it is now."""
        return write_swarm(await self._view(context, Scope.SWARM))

    async def _view(self, context: Any, scope: Scope) -> SwarmView:  # noqa: ANN401
        """The swarm as the caller may see it."""
        try:
            caller = self._caller(context)
            caller.check(scope)
        except OsaiError as e:
            await abort(context, e)
        return caller.generations(self._generations).swarm()

    def _caller(self, context: Any) -> Caller:  # noqa: ANN401
        """Who calls; raises UnauthenticatedError if he needs a key and has none."""
        metadata = context.invocation_metadata() or ()
        take_caller(next((value for key, value in metadata if key == HEADER), None))
        return caller_of(self._keyring, next((value for key, value in metadata if key == "authorization"), None))


async def _fail(context: Any, error: Exception, what: str) -> Never:  # noqa: ANN401
    """End a call with an error, and log it."""
    if isinstance(error, OsaiError):
        # one about the request itself may quote it: a chat template's own words do
        why = type(error).__name__ if isinstance(error, InvalidRequestError) else error
        log.info("%s for %s ended: %s", what, context.peer(), why)
        await abort(context, error)
    log.error("%s for %s failed", what, context.peer(), exc_info=error)
    await abort(context, InternalError(f"the coordinator failed ({type(error).__name__}); its log says more"))
