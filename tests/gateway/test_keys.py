"""Keys before HTTP's front door: 401, 403 and 429 in OpenAI's shape, and how a revoked key's stream ends."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry
from starlette.types import Message

from coordinator.keys_world import Keys, bearer
from gateway.fake_generations import (
    HANG,
    MODEL,
    FakeGenerations,
    chunk,
    example_model,
    example_swarm,
    finished,
    scripted,
    started,
)
from gateway.front_door import BODY, error_of
from osai.coordinator.gateway import key_check
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer
from osai.coordinator.keys.api_key import Scope
from osai.coordinator.keys.key_text import NONE_SENT, NOT_VALID, KeyText
from osai.core.errors import ResourceExhaustedError

KEYED = [
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", f"/v1/models/{MODEL}"),
    ("GET", "/v1/nothing"),
    ("GET", "/api/v1/swarm"),
]
WRONG = KeyText(key_id="0" * 16, secret=b"w" * 32)
SOON_S = 3.0


@asynccontextmanager
async def serving(generations: FakeGenerations, keys: Keys) -> AsyncIterator[str]:
    """A front door that asks for keys; its URL."""
    app = create_app(generations, metrics=Metrics(CollectorRegistry()), keyring=keys.keyring)
    async with HttpServer(app, host="127.0.0.1", port=0, stop_deadline_s=1.0) as server:
        yield server.url


@asynccontextmanager
async def at(generations: FakeGenerations, keys: Keys, text: KeyText | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client that shows a key."""
    headers = {"authorization": bearer(text)} if text else {}
    async with serving(generations, keys) as url, httpx.AsyncClient(base_url=url, headers=headers) as client:
        yield client


@pytest.mark.parametrize(("shown", "words"), [(None, NONE_SENT), (WRONG, NOT_VALID)])
@pytest.mark.parametrize(("method", "path"), KEYED)
async def test_without_a_good_key_the_answer_is_a_401(
    method: str, path: str, shown: KeyText | None, words: str
) -> None:
    keys, fake = Keys(), FakeGenerations()
    keys.make()
    async with at(fake, keys, shown) as client:
        response = await client.request(method, path, content=b"not even JSON" if method == "POST" else None)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer ")
    assert error_of(response) == {
        "message": words, "type": "invalid_request_error", "param": None, "code": "invalid_api_key",
    }  # fmt: skip
    assert fake.requests == []


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/static/page.css", "/openapi.json"])
async def test_what_shows_no_more_than_health_stays_open(path: str) -> None:
    async with at(FakeGenerations(), Keys()) as client:
        assert (await client.get(path)).status_code == 200


async def test_without_keys_nothing_is_asked_for() -> None:
    app = create_app(FakeGenerations(), metrics=Metrics(CollectorRegistry()))
    async with (
        HttpServer(app, host="127.0.0.1", port=0, stop_deadline_s=1.0) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert (await client.get("/api/v1/swarm")).status_code == 200


async def test_a_refused_upload_gets_its_answer() -> None:
    async with at(FakeGenerations(), Keys()) as client:
        response = await client.post("/v1/completions", content=b"x" * (key_check.DROPPED_BYTES - 1))
    assert response.status_code == 401


@pytest.mark.parametrize("stalls", [False, True])
async def test_a_refused_upload_is_read_for_so_long_and_no_further(
    monkeypatch: pytest.MonkeyPatch, *, stalls: bool
) -> None:
    monkeypatch.setattr(key_check, "DROP_DEADLINE_S", 0.05)
    part = b"x" * (key_check.DROPPED_BYTES // 4)
    num_read = 0
    sent: list[Message] = []

    async def receive() -> Message:
        nonlocal num_read
        if stalls:
            await asyncio.sleep(60)
        num_read += 1
        return {"type": "http.request", "body": part, "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    async def unreached(*_: object) -> None:
        pytest.fail("it was let in")

    check = key_check.KeyCheck(unreached, keyring=Keys().keyring)
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    await asyncio.wait_for(check(scope, receive, send), SOON_S)
    assert sent[0]["status"] == 401
    assert num_read == (0 if stalls else 5)


async def test_openais_client_is_let_in_by_its_key_and_raises_its_own_errors() -> None:
    keys, fake = Keys(), FakeGenerations()
    text, lesser, slow = keys.make(), keys.make(Scope.MODELS), keys.make(requests_per_minute=1)
    async with serving(fake, keys) as url:

        def client(shown: KeyText) -> AsyncOpenAI:
            return AsyncOpenAI(base_url=f"{url}/v1", api_key=shown.text, max_retries=0)

        async with client(text) as good, client(WRONG) as wrong, client(lesser) as reader, client(slow) as other:
            answer = await good.completions.create(model=MODEL, prompt="x")
            assert [model.id async for model in reader.models.list()] == [MODEL]
            with pytest.raises(openai.AuthenticationError) as unknown:
                await wrong.models.list()
            with pytest.raises(openai.PermissionDeniedError) as forbidden:
                await reader.completions.create(model=MODEL, prompt="x")
            await other.completions.create(model=MODEL, prompt="x")
            with pytest.raises(openai.RateLimitError) as limited:
                await other.completions.create(model=MODEL, prompt="x")
    assert answer.choices[0].text == "Hello world"
    assert unknown.value.code == "invalid_api_key"
    assert (forbidden.value.code, limited.value.code) == ("insufficient_permissions", "rate_limit_exceeded")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_quota_says_in_whole_seconds_when_it_is_free_again(*, stream: bool) -> None:
    keys = Keys()
    text = keys.make(requests_per_minute=1)
    async with at(FakeGenerations(), keys, text) as client:
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        response = await client.post("/v1/completions", json=BODY | {"stream": stream})
        assert response.status_code == 429
        assert error_of(response)["type"] == error_of(response)["code"] == "rate_limit_exceeded"
        wait_s = int(response.headers["retry-after"])  # the clock stands at half a second: 60.5 s are 61
        assert wait_s == 61
        assert f"try again in {wait_s} s" in error_of(response)["message"]
        keys.clocks.now_s += wait_s - 1
        assert (await client.post("/v1/completions", json=BODY)).status_code == 429
        keys.clocks.now_s += 1
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200


async def test_generations_at_once_over_the_quota_are_told_to_come_soon() -> None:
    keys = Keys()
    text = keys.make(max_concurrent=1)
    fake = scripted(started(), HANG)
    running = BODY | {"stream": True}
    async with at(fake, keys, text) as client, client.stream("POST", "/v1/completions", json=running):
        response = await client.post("/v1/completions", json=BODY)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


async def test_a_coordinator_that_is_full_is_another_429() -> None:
    keys = Keys()
    text = keys.make()
    async with at(scripted(ResourceExhaustedError("full", retry_after_s=2.1)), keys, text) as client:
        response = await client.post("/v1/completions", json=BODY)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert (error_of(response)["type"], error_of(response)["code"]) == ("rate_limit_error", "resource_exhausted")


async def test_a_request_for_more_than_the_quota_is_no_matter_of_waiting() -> None:
    keys = Keys()
    text = keys.make(tokens_per_day=50)
    async with at(FakeGenerations(), keys, text) as client:
        response = await client.post("/v1/completions", json=BODY | {"max_tokens": 50})
    assert response.status_code == 400
    assert "retry-after" not in response.headers
    assert "50 tokens a day" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("scope", "statuses"),
    [(Scope.GENERATE, (200, 403, 403)), (Scope.MODELS, (403, 200, 403)), (Scope.SWARM, (403, 403, 200))],
)
async def test_each_endpoint_has_its_scope(scope: Scope, statuses: tuple[int, ...]) -> None:
    keys = Keys()
    text = keys.make(scope)
    async with at(FakeGenerations(), keys, text) as client:
        responses = (
            await client.post("/v1/completions", json=BODY),
            await client.get("/v1/models"),
            await client.get("/api/v1/swarm"),
        )
    assert tuple(response.status_code for response in responses) == statuses
    for response in responses:
        if response.status_code == 403:
            assert text.key_id in error_of(response)["message"]
            assert "www-authenticate" not in response.headers


async def test_a_key_sees_and_uses_its_own_models_alone() -> None:
    keys = Keys()
    text = keys.make(models=("osai/*",))
    fake = FakeGenerations(view=example_swarm(models=(example_model(), example_model("other/model"))))
    async with at(fake, keys, text) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        hidden = [(await client.get(f"/v1/models/{model}")).status_code for model in ("other/model", "no/such")]
        swarm = (await client.get("/api/v1/swarm")).json()["models"]
        refused = [
            await client.post("/v1/completions", json=BODY | {"model": model}) for model in ("other/model", "no/such")
        ]
        used = await client.post("/v1/completions", json=BODY)
    assert [model["id"] for model in listed] == [model["model_id"] for model in swarm] == [MODEL]
    assert hidden == [404, 404]
    assert [response.status_code for response in refused] == [403, 403]
    assert used.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_revoked_key_runs_ends_with_a_typed_error(*, stream: bool) -> None:
    keys = Keys()
    text = keys.make()
    fake = scripted(started(), chunk(0, "Hel"), HANG)
    async with at(fake, keys, text) as client:
        asking = asyncio.create_task(client.post("/v1/completions", json=BODY | {"stream": stream}, timeout=SOON_S))
        await asyncio.wait_for(fake.asked.wait(), SOON_S)
        await asyncio.sleep(0.05)
        keys.revoke(text)
        response = await asyncio.wait_for(asking, SOON_S)
        again = await client.post("/v1/completions", json=BODY)
    error = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    assert error["code"] == "invalid_api_key"
    assert f"API key {text.key_id} is revoked" in error["message"]
    assert "[DONE]" not in response.text
    assert response.status_code == (200 if stream else 401)
    assert fake.num_cancelled == 1
    assert again.status_code == 401


async def test_no_secret_gets_into_a_log_an_answer_or_a_metric(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):  # these are the client's
        caplog.set_level(logging.WARNING, logger=name)
    keys = Keys()
    text, revoked = keys.make(Scope.SWARM), keys.make()
    keys.revoke(revoked)
    bugs: list[Any] = [keys.make()]
    said = []
    for shown in (text, revoked, WRONG, *bugs):
        async with at(scripted(KeyError("a bug")), keys, shown) as client:
            said.append((await client.post("/v1/completions", json=BODY)).text)
            said.append((await client.get("/metrics")).text)
    assert "a bug" in caplog.text
    for shown in (text, revoked, WRONG, *bugs):
        assert shown.secret.hex() not in caplog.text + "".join(said)


async def test_a_finished_generation_frees_what_it_had_set_aside() -> None:
    keys = Keys()
    text = keys.make(tokens_per_minute=40)
    async with at(scripted(started(), finished()), keys, text) as client:  # 4 tokens each
        statuses = [
            (await client.post("/v1/completions", json=BODY | {"max_tokens": 20})).status_code for _ in range(6)
        ]
    assert statuses == [200] * 5 + [429]
