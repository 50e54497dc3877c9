"""Errors as HTTP clients see them: status, OpenAI's shape, headers; and streams that break."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import openai
import pytest

from gateway.fake_generations import MODEL, FakeGenerations, Step, chunk, finished, hello_world, scripted, started
from gateway.front_door import BODY, error_of, openai_client, post, serving
from osai.coordinator.api import GenerationEvent, GenerationRequest
from osai.core import errors


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "retry_after"),
    [
        (errors.InvalidRequestError("no"), 400, "invalid_request_error", "invalid_request", None),
        (errors.UnknownModelError("no"), 404, "invalid_request_error", "model_not_found", None),
        (errors.ContextExceededError("no"), 400, "invalid_request_error", "context_length_exceeded", None),
        (errors.ResourceExhaustedError("no"), 429, "rate_limit_error", "resource_exhausted", "1"),
        (errors.NotCoveredError("no"), 503, "server_error", "not_covered", "5"),
        (errors.UnavailableError("no"), 503, "server_error", "unavailable", "5"),
        (errors.DeadlineExceededError("no"), 504, "server_error", "deadline_exceeded", None),
        (errors.WeightsError("no"), 500, "server_error", "weights", None),
        (errors.InternalError("no"), 500, "server_error", "internal", None),
        (errors.SetupError("no"), 500, "server_error", "invalid_request", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_start_has_its_status(
    error: errors.OsaiError, status: int, kind: str, code: str, retry_after: str | None, *, stream: bool
) -> None:
    response = await post(scripted(error), json.dumps(BODY | {"stream": stream}).encode())
    assert response.status_code == status
    assert error_of(response)["message"] == "no"
    assert (error_of(response)["type"], error_of(response)["code"]) == (kind, code)
    assert response.headers.get("retry-after") == retry_after
    assert response.headers["content-type"] == "application/json"


async def test_openais_client_raises_its_own_errors() -> None:
    async with openai_client(scripted(errors.UnknownModelError("no such model"))) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.completions.create(model="nope", prompt="x")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nope")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.completions.create(model=MODEL, prompt="x", best_of=2)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "best_of")


async def test_openais_client_tries_again_when_told_to() -> None:
    answers: list[list[Step]] = [[errors.ResourceExhaustedError("full")]]
    fake = FakeGenerations(script=lambda request: answers.pop(0) if answers else hello_world(request))
    async with openai_client(fake) as client:
        answer = await client.with_options(max_retries=1).completions.create(model=MODEL, prompt="x")
    assert answer.choices[0].text == "Hello world"
    assert len(fake.requests) == 2


async def test_an_error_in_mid_stream_ends_it_visibly() -> None:
    fake = scripted(started(), chunk(0, "Hel"), errors.UnavailableError("node 2 was lost"))
    response = await post(fake, json.dumps(BODY | {"stream": True}).encode())
    *_, last = response.text.strip().split("\n\n")
    assert response.status_code == 200
    assert json.loads(last.removeprefix("data: ")) == {
        "error": {"message": "node 2 was lost", "type": "server_error", "param": None, "code": "unavailable"}
    }
    assert "[DONE]" not in response.text
    assert fake.num_ended == 1

    async with openai_client(fake) as client:
        stream = await client.completions.create(model=MODEL, prompt="x", stream=True)
        received = [(await anext(stream)).choices[0].text for _ in range(2)]
        with pytest.raises(openai.APIError, match="node 2 was lost"):
            await anext(stream)
    assert received == ["", "Hel"]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/completions", BODY, {"text": "Hello"}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}]},
            {"message": {"role": "assistant", "content": "Hello", "refusal": None}},
        ),
    ],
)
async def test_an_error_that_ends_a_plain_answer_keeps_what_there_is(
    path: str, body: dict[str, Any], told: dict[str, Any]
) -> None:
    fake = scripted(started(), chunk(0, "Hel"), chunk(1, "lo"), errors.UnavailableError("lost"))
    async with serving(fake) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.post(path, json=body)
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    error = response.json()["error"]
    assert error == {"message": "lost", "type": "server_error", "param": None, "code": "unavailable",
                     "partial": {**told, "num_tokens": 2}}  # fmt: skip


async def test_a_plain_answer_that_had_no_token_has_no_partial() -> None:
    response = await post(scripted(started(), errors.UnavailableError("lost")), json.dumps(BODY).encode())
    assert error_of(response)["message"] == "lost"  # which checks the keys


@pytest.mark.parametrize("events", [(), (started(), chunk(0, "Hel")), (chunk(0, "Hel"), finished())])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_without_start_or_end_never_looks_complete(
    events: tuple[Step, ...], *, stream: bool
) -> None:
    response = await post(scripted(*events), json.dumps(BODY | {"stream": stream}).encode())
    assert "[DONE]" not in response.text
    assert '"error"' in response.text
    assert 'finish_reason":"' not in response.text
    assert response.status_code == (200 if stream and len(events) == 2 and events[0] == started() else 500)


@pytest.mark.parametrize("steps", [(ValueError("secret"),), (started(), ValueError("secret"))])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_is_logged_and_told_without_its_details(
    steps: tuple[Step, ...], caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    response = await post(scripted(*steps), json.dumps(BODY | {"stream": stream}).encode())
    assert '"code":"internal"' in response.text
    assert "secret" not in response.text
    assert "ValueError: secret" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancellation_inside_the_coordinator_is_a_failure_and_no_silence(
    caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    class Cancelled(FakeGenerations):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
            yield started()
            raise asyncio.CancelledError

    response = await post(Cancelled(), json.dumps(BODY | {"stream": stream}).encode())
    assert '"code":"internal"' in response.text
    assert response.headers["x-request-id"] in response.text
    assert "CancelledError" in caplog.text


async def test_a_bug_outside_a_generation_is_a_typed_500(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeGenerations):
        def swarm(self) -> Any:  # noqa: ANN401 - it never returns
            raise ValueError("secret")

    async with serving(Broken()) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.get("/api/v1/swarm", headers={"x-request-id": "mine-1"})
        alive = await client.get("/healthz")
    assert response.status_code == 500
    assert "mine-1" in error_of(response)["message"]
    assert response.headers["x-request-id"] == "mine-1"
    assert "secret" not in response.text
    assert "request mine-1 failed" in caplog.text
    assert alive.json() == {"status": "ok"}
