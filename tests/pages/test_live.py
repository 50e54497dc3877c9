"""The page's stream of events: one render a tick for all readers, bounded, and over when the server stops."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import httpx

from gateway.fake_generations import FakeGenerations, example_model, example_node, example_swarm
from osai.coordinator.health import frames
from pages.page_server import PageServer

FRESH_S = 5.0  # a tick is 2 s


async def events(client: httpx.AsyncClient, since: str = "") -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Ids and data of a stream's events."""
    async with client.stream("GET", "/live", params={"since": since}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        event_id = ""
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            if line.startswith("data: "):
                yield event_id, json.loads(line[6:])


def client_of(server: PageServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=FRESH_S)


async def test_a_reader_gets_all_and_then_what_has_changed() -> None:
    fake = FakeGenerations(view=example_swarm(models=(example_model(), example_model("other"))))
    server = PageServer(fake)
    async with server.http() as http:
        server.url = http.url
        async with client_of(server) as client, aclosing(events(client)) as stream:
            first_id, first = await anext(stream)
            assert first["parts"].keys() == {"asof", "summary", "m0", "m1", "nodes", "contributors"}
            fake.view = replace(fake.view, models=(example_model(replicas=(0,) * 6), example_model("other")))
            changed_s = time.monotonic()
            second_id, second = await anext(stream)
            assert time.monotonic() - changed_s < FRESH_S
            assert second["parts"].keys() == {"asof", "summary", "m0"} or second["parts"].keys() == {"summary", "m0"}
            assert "No ready node hosts layers 0:6" in second["parts"]["m0"]
            assert second["title"] == "1/2 models servable"
            assert first_id != second_id
            async with aclosing(events(client, since="of another process")) as back:
                assert (await anext(back))[1]["parts"].keys() == first["parts"].keys()


async def test_many_readers_cost_one_render_a_tick() -> None:
    server = PageServer(FakeGenerations(), max_readers=60)
    async with server.http() as http:
        server.url = http.url
        async with httpx.AsyncClient(
            base_url=http.url, timeout=FRESH_S, limits=httpx.Limits(max_connections=None)
        ) as client:
            begun_s = time.monotonic()
            streams = [events(client) for _ in range(60)]
            for _ in range(2):
                await asyncio.gather(*(anext(stream) for stream in streams))
            pages = await asyncio.gather(*(client.get("/") for _ in range(20)))
            took_s = time.monotonic() - begun_s
            assert {page.status_code for page in pages} == {200}
            assert server.page.readers.num_readers == 60
            assert 2 <= server.page.frames.num_rendered <= 2 + took_s / frames.TICK_S
            for stream in streams:
                await stream.aclose()
            async with asyncio.timeout(FRESH_S):
                while server.page.readers.num_readers:  # noqa: ASYNC110 - the server has no event for it
                    await asyncio.sleep(0.01)


async def test_there_are_no_more_readers_than_allowed() -> None:
    server = PageServer(FakeGenerations(), max_readers=1)
    async with server.http() as http:
        server.url = http.url
        async with client_of(server) as client, aclosing(events(client)) as stream:
            await anext(stream)
            refused = await client.get("/live")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
            assert (await client.get("/")).status_code == 200


async def test_a_stop_ends_every_stream_at_once() -> None:
    server = PageServer(FakeGenerations())
    async with server.http() as http, httpx.AsyncClient(base_url=http.url, timeout=FRESH_S) as client:
        stream = events(client)
        await anext(stream)
        stopping_s = time.monotonic()
        await http.stop()
        assert [event async for event in stream] == []
        assert time.monotonic() - stopping_s < 0.8


async def test_a_frame_that_cannot_be_rendered_is_not_the_end(monkeypatch: Any, caplog: Any) -> None:  # noqa: ANN401
    fake, broken = FakeGenerations(), [True, False]
    monkeypatch.setattr(frames, "TICK_S", 0.05)
    server = PageServer(fake)
    view = fake.view

    def sometimes() -> Any:  # noqa: ANN401
        if broken and broken.pop(0):
            raise RuntimeError("a bug")
        return view

    async with server.http() as http:
        server.url = http.url
        server.page.frames._swarm = sometimes
        async with client_of(server) as client, aclosing(events(client)) as stream:
            assert "parts" in (await anext(stream))[1]
    assert "the health page can't be rendered" in caplog.text


async def test_pages_of_nodes_are_served_with_and_without_scripts() -> None:
    nodes = tuple(example_node(i, name=f"node-{i:03}") for i in range(60))
    server = PageServer(FakeGenerations(view=example_swarm(nodes=nodes)))
    async with server.http() as http, httpx.AsyncClient(base_url=http.url) as client:
        whole, part = (await client.get("/", params={"page": 3})).text, (await client.get("/nodes?page=3")).text
        wrong = [(await client.get("/", params={"page": page})).status_code for page in ("0", "x", "-1")]
        last = (await client.get("/nodes?page=999999")).text
    for html in (whole, part):
        assert "node-059" in html
        assert "node-049" not in html
    assert 'data-part="nodes" data-page="3"' in whole
    assert last == part
    assert wrong == [400, 400, 400]
