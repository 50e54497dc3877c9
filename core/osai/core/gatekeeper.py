"""Every call to a member of a private swarm passes here: who calls, may he, and is he still let in."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Self

import grpc
import grpc.aio

from osai.core.admission.access import check_call
from osai.core.admission.peer import Peer
from osai.core.errors import OsaiError, TrustError
from osai.core.member_tls import MemberTls, peer_certificate
from osai.core.rpc import abort

LOOK_S = 60.0  # a newer list is acted on at once; between looks whether this member's own list has ended (S15)

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Gatekeeper(grpc.aio.ServerInterceptor):
    """Judges each call by its caller's certificate, and ends calls of those who are let in no longer (S16, S17).

    Args:
        tls: of this member.
        for_joiners: of a server that demands no certificate: what takes members alone is refused there.
    """

    def __init__(self, tls: MemberTls, *, for_joiners: bool = False) -> None:
        self._tls = tls
        self._for_joiners = for_joiners

    async def intercept_service(self, continuation: Any, details: Any) -> Any:  # noqa: ANN401
        """The call's handler, guarded."""
        handler = await continuation(details)
        if handler is None:  # no such method: gRPC says so
            return None
        kind = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
        behaviour = getattr(handler, "_".join(kind))
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _writing(behaviour)

        async def guarded(request: Any, context: Any) -> Any:  # noqa: ANN401
            return await self._guard(details.method, behaviour, request, context)

        wrap = getattr(grpc, "_".join(kind) + "_rpc_method_handler")
        return wrap(guarded, handler.request_deserializer, handler.response_serializer)

    async def _guard(self, method: str, behaviour: Behaviour, request: Any, context: Any) -> Any:  # noqa: ANN401
        try:
            peer = None if self._for_joiners else self._tls.peer_of(peer_certificate(context))
            check_call(method, peer.role if peer else None)
        except OsaiError as e:
            await abort(context, e)
        if peer is None:
            return await behaviour(request, context)
        call = asyncio.ensure_future(behaviour(request, context))
        with Watch(self._tls, peer) as watch:
            try:
                await asyncio.wait((call, watch.over), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not call.done():
                    call.cancel()
            if not watch.over.done():
                return await call
            await asyncio.wait((call,))
            return await abort(context, watch.over.result())


class Watch:
    """Looks after one peer for as long as a block runs.

    Attributes:
        over: done, with the reason, when the peer is to be heard no longer.
    """

    def __init__(self, tls: MemberTls, peer: Peer) -> None:
        self._tls = tls
        self._peer = peer
        self.over: asyncio.Future[OsaiError] = asyncio.get_running_loop().create_future()
        self._subscription = tls.subscribed(self._look)

    def __enter__(self) -> Self:
        self._subscription.__enter__()
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._subscription.__exit__(None, None, None)

    def _look_again(self) -> None:
        self._look()
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def _look(self) -> None:
        try:
            self._tls.check(self._peer)
        except TrustError as e:
            if not self.over.done():
                self.over.set_result(e)


def _writing(generator: Callable[[Any, Any], Any]) -> Behaviour:
    async def behaviour(request: Any, context: Any) -> None:  # noqa: ANN401
        async for response in generator(request, context):
            await context.write(response)

    return behaviour
