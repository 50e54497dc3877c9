"""docs/compatibility.md: complete, as generated, and true."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from gateway.compatibility import APIS, Api, document
from gateway.compatibility_newer import EXTENSIONS
from gateway.compatibility_row import Asked, Row, Seen
from gateway.fake_generations import FakeGenerations, example_model, example_swarm
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.tool_calls.style import ToolStyle

FILE = Path(__file__).parents[2] / "docs" / "compatibility.md"
CASES = [pytest.param(api, name, id=f"{api.path}-{name}") for api in APIS for name in api.rows]
COMMON = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "ignore_eos", "stop_token_ids",
          "trusted_operators"}  # fmt: skip


@pytest.fixture(scope="module")
def door() -> tuple[FakeGenerations, FastAPI]:
    """One front door for all rows: to build one takes as long as to ask it a hundred times."""
    fake = FakeGenerations(view=example_swarm(models=(example_model(tools=ToolStyle(format="hermes")),)))
    return fake, create_app(fake, metrics=Metrics(CollectorRegistry()), random_bits=lambda _num_bits: 5)


@pytest.fixture
def fake(door: tuple[FakeGenerations, FastAPI]) -> FakeGenerations:
    door[0].requests.clear()
    door[0].embedded.clear()
    return door[0]


@pytest.fixture
async def client(door: tuple[FakeGenerations, FastAPI]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door[1]), base_url="http://here") as client:
        yield client


async def seen(client: httpx.AsyncClient, fake: FakeGenerations, api: Api, sent: dict[str, Any]) -> Seen:
    """What a request that is taken comes to."""
    response = await client.post(api.path, json=api.base | sent)
    assert response.status_code == 200, response.text
    asked: list[Asked] = [*fake.requests, *fake.embedded]
    fake.requests.clear()
    fake.embedded.clear()
    return Seen(asked=asked, text=response.text)


async def assert_refused(client: httpx.AsyncClient, api: Api, name: str, value: object) -> None:
    response = await client.post(
        api.path, json=api.base | {name: value} | ({"stream": True} if "stream" in name else {})
    )
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["message"].startswith(name)
    if "param" in error:
        assert error["param"].startswith(name)
        assert error["code"] in {"unsupported_parameter", "invalid_value", "unknown_parameter"}


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
def test_every_parameter_of_the_clients_is_decided(api: Api) -> None:
    parameters = set(api.parameters()) | {"stream"} - ({"stream"} if api.path == "/v1/embeddings" else set())
    assert len(parameters) > 4
    assert set(api.rows) == parameters


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
def test_every_parameter_that_is_taken_is_in_the_file(api: Api) -> None:
    assert api.body.known() - set(api.rows) <= set(EXTENSIONS)
    assert not api.body.neutral.keys() - set(api.rows)


def test_the_file_is_as_generated() -> None:
    command = "PYTHONPATH=tests .venv/bin/python -m gateway.compatibility > docs/compatibility.md"
    assert FILE.read_text() == document(), f"write it anew: {command}"


@pytest.mark.parametrize(("api", "name"), CASES)
async def test_each_row_is_true(api: Api, name: str, client: httpx.AsyncClient, fake: FakeGenerations) -> None:
    row = api.rows[name]
    assert row.refused or row.sent
    for value in row.refused:
        await assert_refused(client, api, name, value)
        assert not fake.requests
    if row.status == "refused":
        for value in api.neutral(name):
            await seen(client, fake, api, {name: value})
        return
    plain = await seen(client, fake, api, {})
    if row.status == "label":
        labelled = await seen(client, fake, api, {name: row.sent[""]})
        assert labelled.asked == plain.asked
        return
    assert not row.seen(plain)
    assert row.seen(await seen(client, fake, api, row.sent))


def fitting(name: str) -> list[Api]:
    """The endpoints that take one of osai's own parameters."""
    found = [api for api in APIS if name in api.body.known() and name not in api.rows]
    assert found
    return found


@pytest.mark.parametrize("name", sorted(EXTENSIONS))
async def test_osai_s_own_parameters_do_what_they_say(
    name: str, client: httpx.AsyncClient, fake: FakeGenerations
) -> None:
    row: Row = EXTENSIONS[name]
    for api in fitting(name):
        sent = {name: row.sent[""]} if row.status == "label" else row.sent
        request = await seen(client, fake, api, sent)
        assert row.status == "label" or row.seen(request)
        for value in row.refused:
            await assert_refused(client, api, name, value)


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
async def test_a_parameter_that_nobody_knows_is_named(api: Api, client: httpx.AsyncClient) -> None:
    response = await client.post(api.path, json=api.base | {"temprature": 1})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "temprature: no such parameter"


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.path)
def test_osai_s_own_parameters_are_the_same_on_all_endpoints_that_generate(api: Api) -> None:
    assert api.path == "/v1/embeddings" or api.body.known() >= COMMON
