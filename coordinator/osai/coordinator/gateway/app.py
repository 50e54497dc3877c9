"""Builds the HTTP front door over the coordinator's `Generations`."""

import secrets
import time
from collections.abc import Callable

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from osai.coordinator.api import Generations
from osai.coordinator.gateway.body_limit import BodyLimit
from osai.coordinator.gateway.edge import Edge
from osai.coordinator.gateway.endpoint import Endpoint
from osai.coordinator.gateway.error_response import ErrorResponse, error_response
from osai.coordinator.gateway.errors import HttpError, error_body
from osai.coordinator.gateway.key_check import KeyCheck
from osai.coordinator.gateway.limits import GatewayLimits
from osai.coordinator.gateway.metering import MeteredGenerations
from osai.coordinator.gateway.metrics import Metrics, SwarmCollector
from osai.coordinator.gateway.routes import openai_routes, swarm_routes
from osai.coordinator.gateway.tooling import ToolStyles
from osai.coordinator.gateway.validation import parameter_error
from osai.coordinator.health.public_page import PublicPage
from osai.coordinator.health.routes import health_routes
from osai.coordinator.keys.keyring import Keyring
from osai.core.errors import OsaiError
from osai.core.protocol import software


def create_app(
    generations: Generations,
    *,
    metrics: Metrics,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    random_bits: Callable[[int], int] = secrets.randbits,
    limits: GatewayLimits | None = None,
    keyring: Keyring | None = None,
    page: PublicPage | None = None,
) -> FastAPI:
    """The HTTP front door: OpenAI's API under `/v1`, `/healthz`, `/metrics`, `/api/v1/swarm` and the page at `/`.

    Args:
        generations: the coordinator; what this front door asks of it is measured as api="http".
        metrics: the instruments, whose registry `/metrics` shows; one app a registry.
        clock: monotonic seconds, for measuring.
        wall_clock: seconds since 1970, for OpenAI's `created`.
        random_bits: a random integer of that many bits, for seeds that the client left out and for ids.
        limits: bounds of a request.
        keyring: the API keys that `/v1` and `/api/v1/swarm` ask for; None: they ask for none.
        page: what is shown at `/`; None: one without a history.
    """
    limits = limits or GatewayLimits()
    metrics.registry.register(SwarmCollector(generations.swarm))
    metered = MeteredGenerations(generations, metrics=metrics, api="http", clock=clock)
    endpoint = Endpoint(
        generations=metered,
        random_bits=random_bits,
        wall_clock=wall_clock,
        limits=limits,
        styles=ToolStyles(metered.swarm),
        keyring=keyring,
    )
    app = FastAPI(
        title="osai", version=software().removeprefix("osai/"), docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.include_router(openai_routes(endpoint))
    app.include_router(swarm_routes(endpoint, metrics))
    page = page or PublicPage(metered.swarm, num_recoveries=metrics.num_recoveries, wall_clock=wall_clock)
    app.include_router(health_routes(page, metered, keyring))
    app.add_exception_handler(OsaiError, _on_typed)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_middleware(BodyLimit, limits=limits)
    if keyring is not None:
        app.add_middleware(KeyCheck, keyring=keyring)
    app.add_middleware(Edge, metrics=metrics, random_bits=random_bits)  # added last, so outermost
    return app


async def _on_typed(_request: Request, error: Exception) -> Response:
    if not isinstance(error, OsaiError):
        raise error
    return error_response(error)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return error_response(parameter_error(error.errors()[0]))


async def _on_http(request: Request, error: Exception) -> Response:
    """No such route, a method that it does not take, a body that could not be read."""
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} {request.url.path}: {error.detail}"
    body = error_body(message, kind="invalid_request_error", param=None, code=None)
    return ErrorResponse(HttpError(status=error.status_code, body=body, headers=dict(error.headers or {})))
