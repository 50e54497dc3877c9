"""Sessions that wait or move, as HTTP clients see them: the answer is the same, and the stream tells what goes on."""

import json

import httpx
import pytest
from openai import AsyncOpenAI

from gateway.fake_generations import MODEL, STAGES, FakeGenerations, chunk, finished, scripted, started
from gateway.front_door import BODY, post, serving
from osai.coordinator.api import Rerouted, Waiting

WAITING = Waiting(reason="no ready node\nhosts layers 2:4", remaining_s=29.6)
REROUTED = Rerouted(pipeline=STAGES, reason="10.9.8.1:4000 was lost", pause_s=1.25)


def bumpy() -> FakeGenerations:
    return scripted(
        WAITING, started(), chunk(0, "Hel"), WAITING, REROUTED, chunk(1, "lo"), REROUTED, chunk(2, "!"), finished()
    )


async def test_a_stream_tells_in_comments() -> None:
    response = await post(bumpy(), json.dumps(BODY | {"stream": True}).encode())
    parts = response.text.strip().split("\n\n")
    comments = [part for part in parts if part.startswith(":")]
    assert comments == [
        ": waiting: no ready node hosts layers 2:4; given up in 30 s",
        ": rerouted after 1.2 s",
        ": rerouted after 1.2 s",
    ]
    assert parts.index(comments[0]) == 2  # where it happened: after the opening and the first piece
    assert all(part.startswith((":", "data: ")) for part in parts)
    assert parts[-1] == "data: [DONE]"
    assert "10.9.8." not in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_client_sees_the_same_answer(*, stream: bool) -> None:
    async with serving(bumpy()) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        if stream:
            chunks = await client.completions.create(model=MODEL, prompt="x", stream=True)
            text = "".join([part.choices[0].text async for part in chunks])
        else:
            text = (await client.completions.create(model=MODEL, prompt="x")).choices[0].text
    assert text == "Hello!"


async def test_recoveries_are_measured_and_shown() -> None:
    async with serving(bumpy()) as url, httpx.AsyncClient(base_url=url) as client:
        assert "Recoveries" not in (await client.get("/")).text
    async with serving(bumpy()) as url, httpx.AsyncClient(base_url=url) as client:
        for _ in range(2):
            await client.post("/v1/completions", json=BODY)
        metrics = (await client.get("/metrics")).text
        page = (await client.get("/")).text
    labels = f'{{api="http",model="{MODEL}"}}'
    assert f"osai_recoveries_total{labels} 4.0" in metrics
    assert f"osai_recovery_pause_seconds_count{labels} 4.0" in metrics
    assert f"osai_recovery_pause_seconds_sum{labels} 5.0" in metrics
    assert "<dt>Recoveries</dt><dd>4<small> since the start" in page
