"""What a generation leaves in the logs of its coordinator and nodes, all of them real, at the level of debugging."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client import CollectorRegistry

from coordinator.builders import model, node, span, train_byte_level
from families.family_configs import VOCAB_SIZE
from families.fixtures import Checkpoints
from node import ring_pipeline
from node.ring_pipeline import StageNode, stage_node
from osai.client import AsyncClient, Rerouted
from osai.coordinator.api import SwarmView
from osai.coordinator.catalog import Catalog
from osai.coordinator.client_service import ClientService
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer
from osai.coordinator.generations import SwarmGenerations
from osai.coordinator.swarm import Swarm
from osai.coordinator.text import Tokenizer
from osai.core.layers import LayerRange
from osai.core.logs import QUIET
from osai.core.rpc import bind, insecure_channel, make_server
from osai.proto import client_pb2, client_pb2_grpc

SECRETS = ("Zuckowsky", "owes", "Vandermeer", "9417")
PROMPT = " ".join(SECRETS)
SPANS = (LayerRange(0, 3), LayerRange(3, 6), LayerRange(3, 6))
VIEW = SwarmView(coordinator_id="c" * 32, software="", http_address="", dht_addresses=(), models=(), nodes=())


@dataclass
class Doors:
    """Where a coordinator of real nodes is asked."""

    grpc: str
    http: str
    tokenizer: Tokenizer
    nodes: list[StageNode]


@asynccontextmanager
async def doors(path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Doors]:
    served, swarm = model(tokenizer), Swarm()
    monkeypatch.setattr(ring_pipeline, "DIGEST", served.manifest.digest)
    generations = SwarmGenerations("c" * 32, Catalog([served]), swarm, lambda: VIEW)
    server = make_server()
    client_pb2_grpc.add_CoordinatorServicer_to_server(ClientService("c" * 32, generations, lambda: 1), server)
    port = bind(server, "127.0.0.1:0")
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(stage_node(f"node{i}", path, each)) for i, each in enumerate(SPANS)]
        for i, each in enumerate(nodes):
            hosted = span(each.layers.start, each.layers.end, manifest_digest=served.manifest.digest, step_time_s=1 + i)
            swarm.heard(node(each.node_id, hosted, address=each.address), time.monotonic())
        await stack.enter_async_context(generations.links)
        await server.start()
        stack.push_async_callback(server.stop, None)
        app = create_app(generations, metrics=Metrics(CollectorRegistry()))
        http = await stack.enter_async_context(HttpServer(app, host="127.0.0.1", port=0))
        yield Doors(grpc=f"127.0.0.1:{port}", http=http.url, tokenizer=tokenizer, nodes=nodes)


def debugging(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--log-level debug` has it."""
    caplog.set_level(logging.DEBUG)
    for name in QUIET:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)


def check(caplog: pytest.LogCaptureFixture, tokenizer: Tokenizer, *texts: str) -> None:
    """Nothing of these texts is there: no word, no piece of some length, no row of token ids."""
    log = caplog.text
    assert "osai" in log
    for text in texts:
        for at in range(len(text) - 7):
            assert text[at : at + 8] not in log
        ids = tokenizer.encode(text)
        for at in range(len(ids) - 2):
            assert ", ".join(map(str, ids[at : at + 3])) not in log
            assert " ".join(map(str, ids[at : at + 3])) not in log
    assert not any(secret in log for secret in SECRETS if len(secret) > 4)


async def test_no_prompt_and_no_answer_is_logged_whatever_happens(
    checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer(train_byte_level(tmp_path))
    assert max(tokenizer.encode(PROMPT)) < VOCAB_SIZE
    debugging(caplog, monkeypatch)
    async with doors(checkpoints("llama"), tokenizer, monkeypatch) as at, AsyncClient(at.grpc) as client:
        answer = await client.complete(PROMPT, max_tokens=12, ignore_eos=True, temperature=1.0, presence_penalty=0.5)
        events = []
        async for event in client.generate(PROMPT, max_tokens=30, ignore_eos=True):
            events.append(event)
            if len(events) == 4:
                await at.nodes[1].die()
        assert any(isinstance(event, Rerouted) for event in events)
        async with httpx.AsyncClient(base_url=at.http, timeout=30) as http:
            body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 4, "ignore_eos": True}
            by_http = await http.post("/v1/completions", json=body)
            assert by_http.status_code == 200
            assert (await http.post("/v1/completions", json=body | {"max_tokens": 10_000})).status_code == 400
            assert (await http.post("/v1/completions", json=body | {"no_such": PROMPT})).status_code == 400
        text = by_http.json()["choices"][0]["text"]
    assert "goes on elsewhere" in caplog.text
    check(caplog, tokenizer, PROMPT, answer.text, text)


async def test_a_reason_that_quotes_the_prompt_is_the_clients_alone(
    checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_byte_level(tmp_path)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('I take no ' + messages[0]['content']) }}")
    tokenizer = Tokenizer(folder)
    debugging(caplog, monkeypatch)
    turn = client_pb2.ChatMessage(role="user", content=PROMPT)
    request = client_pb2.GenerateRequest(chat=client_pb2.Chat(messages=[turn]))
    async with doors(checkpoints("llama"), tokenizer, monkeypatch) as at:
        async with insecure_channel(at.grpc) as channel:
            stub: Any = client_pb2_grpc.CoordinatorStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Generate(request).read()
            assert f"I take no {PROMPT}" in (refused.value.details() or "")
        async with httpx.AsyncClient(base_url=at.http) as http:
            body = {"messages": [{"role": "user", "content": PROMPT}]}
            assert PROMPT in (await http.post("/v1/chat/completions", json=body)).text
    assert "ended: InvalidRequestError" in caplog.text
    check(caplog, tokenizer, PROMPT)
