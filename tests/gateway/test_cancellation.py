"""Clients that go away, clients that stall, and a server that stops: the generation is closed, and promptly."""

import asyncio
import json
import socket
import time

import httpx
import pytest
from openai import AsyncOpenAI

from gateway.fake_generations import HANG, MODEL, FakeGenerations, Step, chunk, finished, scripted, started
from gateway.front_door import serving
from osai.coordinator.gateway.limits import GatewayLimits

PROMPT_S = 1.0  # within which a departed client's KV blocks must be free


async def open_request(url: str, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request over a bare socket, sent and not yet answered."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps({"model": MODEL, "prompt": "x"} | body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    await writer.drain()
    return reader, writer


async def closed_within(fake: FakeGenerations, seconds: float) -> float:
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        await fake.closed.wait()
    return time.monotonic() - began


async def test_closing_a_stream_closes_its_generation() -> None:
    fake = scripted(started(), chunk(0, "Hel"), HANG)
    async with serving(fake) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        stream = await client.completions.create(model=MODEL, prompt="x", stream=True)
        assert [(await anext(stream)).choices[0].text for _ in range(2)] == ["", "Hel"]
        assert not fake.closed.is_set()
        await stream.close()
        await closed_within(fake, PROMPT_S)
    assert (fake.num_cancelled, fake.num_ended) == (1, 0)


@pytest.mark.parametrize("steps", [(HANG,), (started(), HANG), (started(), chunk(0, "Hel"), HANG)])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_at_any_point_closes_its_generation(
    steps: tuple[Step, ...], *, stream: bool
) -> None:
    fake = scripted(*steps)
    async with serving(fake) as url:
        _, writer = await open_request(url, {"stream": stream})
        await fake.asked.wait()
        writer.close()
        await closed_within(fake, PROMPT_S)
        await writer.wait_closed()
    assert (fake.num_cancelled, fake.num_ended) == (1, 0)


async def test_a_reset_connection_closes_its_generation() -> None:
    fake = scripted(started(), *(step for i in range(1000) for step in (chunk(i, "x"), 0.01)))
    async with serving(fake) as url:
        reader, writer = await open_request(url, {"stream": True})
        await reader.readuntil(b'"text":"x"')
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # close sends a reset
        writer.transport.abort()
        await closed_within(fake, PROMPT_S)
    assert fake.num_cancelled == 1


async def test_a_client_that_leaves_in_mid_body_starts_nothing() -> None:
    fake = FakeGenerations()
    async with serving(fake) as url, httpx.AsyncClient(base_url=url) as client:
        host, _, port = url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await client.get("/healthz")).status_code == 200
    assert fake.requests == []


async def test_a_client_that_stalls_loses_its_generation(caplog: pytest.LogCaptureFixture) -> None:
    many = [chunk(i, "x" * 10_000) for i in range(5000)]  # more than the sockets' buffers take
    fake = scripted(started(), *many, finished())
    async with serving(fake, limits=GatewayLimits(send_deadline_s=0.3)) as url:
        _, writer = await open_request(url, {"stream": True})
        await closed_within(fake, 5.0)
        writer.transport.abort()
    assert (fake.num_cancelled, fake.num_ended) == (1, 0)
    assert "took nothing for 0.3 s" in caplog.text


async def test_a_stalled_client_does_not_hold_up_a_stop() -> None:
    fake = scripted(started(), *[chunk(i, "x" * 10_000) for i in range(5000)], finished())
    async with serving(fake) as url:  # whose send deadline is long, and whose stop deadline is one second
        _, writer = await open_request(url, {"stream": True})
        await fake.asked.wait()
        await asyncio.sleep(0.2)
        began = time.monotonic()
    assert time.monotonic() - began < 4.0
    assert fake.num_cancelled == 1
    writer.transport.abort()


async def test_a_slow_client_that_goes_on_reading_gets_everything() -> None:
    fake = scripted(started(), *[chunk(i, "x" * 10_000) for i in range(1000)], finished())
    received = b""
    async with serving(fake, limits=GatewayLimits(send_deadline_s=0.5)) as url:
        reader, writer = await open_request(url, {"stream": True})
        while b"[DONE]" not in received[-100:]:
            received += await reader.read(1_000_000)
            await asyncio.sleep(0.02)
        writer.close()
        await writer.wait_closed()
    assert received.count(b"x" * 10_000) == 1000
    assert (fake.num_cancelled, fake.num_ended) == (0, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_finished_generation_is_left_to_end_by_itself(*, stream: bool) -> None:
    fake = scripted(started(), chunk(0, "Hel"), finished(), 0.05)  # it cleans up after its last event
    async with serving(fake) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.post("/v1/completions", json={"model": MODEL, "prompt": "x", "stream": stream})
    assert response.status_code == 200
    assert (fake.num_cancelled, fake.num_ended) == (0, 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stopping_server_cancels_what_outstays_its_deadline(*, stream: bool) -> None:
    fake = scripted(started(), chunk(0, "Hel"), HANG)
    async with serving(fake) as url:  # whose deadline is one second
        reader, writer = await open_request(url, {"stream": stream})
        await fake.asked.wait()
        await asyncio.sleep(0.05)
        began = time.monotonic()
    assert 0.9 < time.monotonic() - began < 2.0
    assert fake.num_cancelled == 1
    received = await reader.read()
    assert b"[DONE]" not in received
    assert (b"200 OK" if stream else b"503 Service Unavailable") in received
    assert b'"error":{"message":"the coordinator is stopping' in received
    writer.close()
    await writer.wait_closed()


async def test_a_stopping_server_answers_what_is_no_generation_too() -> None:
    async with serving(FakeGenerations()) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.05)
    assert b"503 Service Unavailable" in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_a_stopping_server_lets_a_running_answer_end() -> None:
    fake = scripted(started(), 0.4, chunk(0, "Hello"), finished())
    async with serving(fake) as url:
        reader, writer = await open_request(url, {"stream": True})
        await fake.asked.wait()
    received = await reader.read()
    assert b"Hello" in received
    assert b"[DONE]" in received
    writer.close()
    await writer.wait_closed()
