"""What the front door says of requests as such: bodies, sizes, routes, ids."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.fake_generations import MODEL, FakeGenerations
from gateway.front_door import BODY, JSON, error_of, openai_client, post, serving
from osai.coordinator.gateway.errors import ParameterError, http_error
from osai.coordinator.gateway.limits import GatewayLimits


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b'{"prompt": "x"', JSON),
        (b"", JSON),
        (b"null", JSON),
        (b"[]", JSON),
        (b'"x"', JSON),
        (b"\xff\xfe", JSON),
        (b"[" * 100_000, JSON),
        (b'{"prompt": "x"}', {"content-type": "text/plain"}),
        (b"prompt=x", {"content-type": "application/x-www-form-urlencoded"}),
        (b'{"prompt": "x"}', {}),
    ],
)
async def test_a_body_that_is_no_json_object_is_a_400(content: bytes, headers: dict[str, str]) -> None:
    fake = FakeGenerations()
    response = await post(fake, content, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"
    assert fake.requests == []


def test_an_error_can_quote_what_utf_8_cannot_carry() -> None:
    body = http_error(ParameterError("a \ud800 b", param="\ud800")).body
    assert json.dumps(body, ensure_ascii=False).encode()
    assert body["error"]["message"] == r"a \ud800 b"


async def test_a_body_at_the_limit_passes_and_one_over_it_is_a_413() -> None:
    fake = FakeGenerations()
    body = json.dumps(BODY).encode()
    async with (
        serving(fake, limits=GatewayLimits(max_body_bytes=1_000_000)) as url,
        httpx.AsyncClient(base_url=url, headers=JSON) as client,
    ):
        fits = await client.post("/v1/completions", content=body.ljust(1_000_000))
        over = await client.post("/v1/completions", content=body.ljust(1_000_001))
        far_over = await client.post("/v1/completions", content=body.ljust(3_000_000))
        in_pieces = await client.post("/v1/completions", content=_pieces(30))
        again = await client.post("/v1/completions", content=body)
    assert fits.status_code == again.status_code == 200
    for response in (over, far_over, in_pieces):
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"
    assert len(fake.requests) == 2


async def _pieces(num_pieces: int) -> AsyncIterator[bytes]:
    for _ in range(num_pieces):
        yield b" " * 100_000


async def test_ten_megabytes_are_the_default_limit() -> None:
    response = await post(FakeGenerations(), b" " * 10_000_001)
    assert response.status_code == 413


async def test_a_body_that_does_not_come_is_a_408() -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(0.3)
        yield b"}"

    async with (
        serving(FakeGenerations(), limits=GatewayLimits(body_deadline_s=0.1)) as url,
        httpx.AsyncClient(base_url=url, headers=JSON) as client,
    ):
        response = await client.post("/v1/completions", content=stalled())
    assert response.status_code == 408
    assert error_of(response)["code"] == "request_timeout"


async def test_unknown_routes_and_methods_are_openai_shaped() -> None:
    async with serving(FakeGenerations()) as url, httpx.AsyncClient(base_url=url) as client:
        missing = await client.get("/v2/models")
        wrong = await client.get("/v1/completions")
        docs = await client.get("/docs")
    assert (missing.status_code, wrong.status_code, docs.status_code) == (404, 405, 404)
    assert error_of(missing)["type"] == error_of(wrong)["type"] == "invalid_request_error"
    assert wrong.headers["allow"] == "POST"


async def test_every_response_has_a_request_id() -> None:
    async with serving(FakeGenerations()) as url, httpx.AsyncClient(base_url=url) as client:
        given = await client.get("/healthz", headers={"x-request-id": "abc.DEF-1_2:3"})
        drawn = [(await client.get(path)).headers["x-request-id"] for path in ("/healthz", "/nowhere", "/")]
        for unfit in ("a b", "x" * 129, "<script>", ""):
            replaced = await client.get("/healthz", headers={"x-request-id": unfit})
            assert replaced.headers["x-request-id"].startswith("req_")
    assert given.headers["x-request-id"] == "abc.DEF-1_2:3"
    assert len(set(drawn)) == 3


async def test_openais_client_sees_the_request_id() -> None:
    async with openai_client(FakeGenerations()) as client:
        plain = await client.completions.create(model=MODEL, prompt="x", extra_headers={"X-Request-Id": "r1"})
        raw = await client.completions.with_raw_response.create(
            model=MODEL, prompt="x", stream=True, extra_headers={"X-Request-Id": "r2"}
        )
    assert plain._request_id == "r1"
    assert raw.headers["x-request-id"] == "r2"
    assert raw.headers["content-type"].startswith("text/event-stream")


async def test_the_openapi_document_describes_the_endpoints() -> None:
    async with serving(FakeGenerations()) as url, httpx.AsyncClient(base_url=url) as client:
        document = (await client.get("/openapi.json")).json()
    properties = document["components"]["schemas"]["ChatBody"]["properties"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models"} <= document["paths"].keys()
    assert properties["temperature"]["default"] == 1.0
    assert {"type": "string"} in properties["stop"]["anyOf"]
