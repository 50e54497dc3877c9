"""Many clients, idle ones, slow ones and wrong ones: bounded in memory and time, and nobody else is slowed."""

import asyncio
import json
import time
from contextlib import AsyncExitStack, suppress

import httpx
import pytest

from gateway.fake_generations import HANG, MODEL, FakeGenerations, chunk, finished, scripted, started
from gateway.front_door import BODY, JSON, error_of, serving
from osai.coordinator.gateway.connection import BoundedHead
from osai.coordinator.gateway.limits import GatewayLimits

NUM_IDLE = 1000
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
PROMPT_S = 2.0  # for an answer that takes some milliseconds, on a machine that does other things too


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


async def test_a_thousand_idle_connections_slow_nobody_and_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedHead, "head_deadline_s", 1.0)
    async with serving(FakeGenerations()) as url, httpx.AsyncClient(base_url=url) as client:
        idle = [await asyncio.open_connection(*address(url)) for _ in range(NUM_IDLE)]
        began = time.monotonic()
        response = await client.post("/v1/completions", json=BODY)
        assert time.monotonic() - began < PROMPT_S
        assert response.status_code == 200
        async with asyncio.timeout(10):
            assert [await reader.read() for reader, _ in idle] == [b""] * NUM_IDLE
        for _, writer in idle:
            await hang_up(writer)


async def test_a_head_that_comes_byte_by_byte_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedHead, "head_deadline_s", 0.3)
    async with serving(FakeGenerations()) as url:
        reader, writer = await asyncio.open_connection(*address(url))
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"y" * 30:
            if reader.at_eof():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        assert reader.at_eof()
        await hang_up(writer)


async def test_a_kept_connection_may_be_used_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedHead, "head_deadline_s", 0.2)
    fake = scripted(started(), 0.4, chunk(0, "Hello"), finished())  # longer than a head may take
    async with serving(fake) as url, httpx.AsyncClient(base_url=url) as client:
        answers = [await client.post("/v1/completions", json=BODY) for _ in range(2)]
    assert [answer.json()["choices"][0]["text"] for answer in answers] == ["Hello"] * 2


async def test_clients_that_read_nothing_slow_nobody() -> None:
    many = [chunk(i, "x" * 10_000) for i in range(2000)]
    fake = FakeGenerations(script=lambda request: [started(), *(many if request.max_tokens == 99 else ()), finished()])
    body = json.dumps(BODY | {"stream": True, "max_tokens": 99}).encode()
    async with serving(fake) as url, httpx.AsyncClient(base_url=url) as client, AsyncExitStack() as stack:
        for _ in range(20):
            _, writer = await asyncio.open_connection(*address(url), limit=1000)
            stack.push_async_callback(hang_up, writer)
            writer.write(HEAD % len(body) + body)
        while len(fake.requests) < 20:  # noqa: ASYNC110 - of many requests none says that it is the last
            await asyncio.sleep(0.01)
        began = time.monotonic()
        answers = await asyncio.gather(*(client.post("/v1/completions", json=BODY) for _ in range(10)))
        assert time.monotonic() - began < PROMPT_S
    assert {answer.status_code for answer in answers} == {200}


async def test_bodies_on_their_way_in_are_bounded_together() -> None:
    limits = GatewayLimits(max_incoming_bytes=3_000_000)
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
    )
    async with (
        serving(FakeGenerations(), limits=limits) as url,
        httpx.AsyncClient(base_url=url, headers=JSON) as client,
    ):
        _, writer = await asyncio.open_connection(*address(url))
        writer.write(head + b" " * 1_999_000)  # and never the rest
        await writer.drain()
        small = json.dumps(BODY).encode()
        async with asyncio.timeout(PROMPT_S):
            while (refused := await client.post("/v1/completions", content=small.ljust(1_900_000))).status_code == 200:
                pass  # until the first one's bytes have come
        fits = await client.post("/v1/completions", content=small)
        await hang_up(writer)
        async with asyncio.timeout(PROMPT_S):
            while (await client.post("/v1/completions", content=small.ljust(1_900_000))).status_code != 200:
                pass  # until its leaving has been noticed
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert error_of(refused)["code"] == "unavailable"
    assert fits.status_code == 200


async def test_a_prompt_of_ten_megabytes_is_taken_and_others_go_on() -> None:
    fake = FakeGenerations()
    large = json.dumps(BODY | {"prompt": "word " * 1_990_000}).encode()
    async with serving(fake) as url, httpx.AsyncClient(base_url=url, headers=JSON) as client:
        sent = [asyncio.create_task(client.post("/v1/completions", content=large)) for _ in range(3)]
        took = []
        while not all(task.done() for task in sent):
            began = time.monotonic()
            assert (await client.get("/healthz")).status_code == 200
            took.append(time.monotonic() - began)
        assert {(await task).status_code for task in sent} == {200}
    assert max(took, default=0.0) < PROMPT_S
    assert {len(request.prompt) for request in fake.requests} == {5 * 1_990_000}


async def test_departed_clients_of_several_choices_free_all_of_them() -> None:
    fake = scripted(started(), chunk(0, "Hel"), HANG)
    async with serving(fake) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"model": MODEL, "prompt": "x", "n": 4, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            await anext(response.aiter_lines())
        async with asyncio.timeout(PROMPT_S):
            while fake.num_cancelled < 4:  # noqa: ASYNC110 - of four none says that it is the last
                await asyncio.sleep(0.01)
    assert fake.num_ended == 0


async def test_a_departed_client_of_embeddings_frees_them() -> None:
    fake = FakeGenerations(embedding=(HANG,))
    async with serving(fake) as url, httpx.AsyncClient(base_url=url) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/embeddings", json={"input": ["a"] * 20}, timeout=0.3)
        async with asyncio.timeout(PROMPT_S):
            await fake.closed.wait()
            while fake.num_cancelled < 8:  # noqa: ASYNC110 - the eight that were under way
                await asyncio.sleep(0.01)
    assert len(fake.embedded) == 8
