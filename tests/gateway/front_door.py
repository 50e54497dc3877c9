"""A front door on a free port, and clients at it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry

from gateway.fake_generations import MODEL, WALL_CLOCK_S, FakeGenerations
from osai.coordinator.api import Generations
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.limits import GatewayLimits
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer

JSON = {"content-type": "application/json"}
BODY: dict[str, Any] = {"model": MODEL, "prompt": "x"}


@asynccontextmanager
async def serving(
    generations: Generations, *, limits: GatewayLimits | None = None, registry: CollectorRegistry | None = None
) -> AsyncIterator[str]:
    """The front door over a coordinator, on a free port; its URL."""
    drawn = iter(range(1000, 100_000))
    app = create_app(
        generations,
        metrics=Metrics(registry or CollectorRegistry()),
        wall_clock=lambda: WALL_CLOCK_S,
        random_bits=lambda _num_bits: next(drawn),
        limits=limits,
    )
    async with HttpServer(app, host="127.0.0.1", port=0, stop_deadline_s=1.0) as server:
        yield server.url


@asynccontextmanager
async def openai_client(generations: Generations) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's own client at a front door."""
    async with serving(generations) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def post(
    generations: FakeGenerations, content: bytes | AsyncIterator[bytes], headers: dict[str, str] | None = None
) -> httpx.Response:
    """A completion asked of a front door over `generations`."""
    async with serving(generations) as url, httpx.AsyncClient(base_url=url) as client:
        return await client.post("/v1/completions", content=content, headers=JSON if headers is None else headers)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object of a response, its shape checked."""
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error
