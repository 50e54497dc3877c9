"""/api/v1/swarm."""

import json
from dataclasses import replace

import httpx

from gateway.fake_generations import HANG, FakeGenerations, example_node, example_swarm, hello_world
from gateway.front_door import serving
from osai.coordinator.api import SpanView
from osai.core.layers import LayerRange


async def test_the_swarm_as_json() -> None:
    span = SpanView(model_id="osai/demo", span=LayerRange(0, 2), dtype="bfloat16+int8", state="ready", verified=True)
    view = example_swarm(nodes=(example_node(uptime_s=HANG), example_node(1, spans=(span,))))
    async with serving(FakeGenerations(view=view)) as url, httpx.AsyncClient(base_url=url) as client:
        body = (await client.get("/api/v1/swarm")).json()
    assert body["models"] == [
        {
            "model_id": "osai/demo", "num_layers": 6, "max_context": 2048, "signed": True, "licence": "Apache-2.0",
            "replicas": [1, 1, 2, 2, 3, 3], "created_s": 1_600_000_000, "num_queued": 0, "missing": "", "covered": True,
        }
    ]  # fmt: skip
    assert body["nodes"][1] == {
        "node_id": f"{1:032x}", "name": "node 1", "software": "osai/0.1.0", "device": "cpu",
        "memory_bytes": 8_000_000_000, "state": "ready", "num_sessions": 2, "uptime_s": 3700.0,
        "operator": "",
        "spans": [
            {"model_id": "osai/demo", "span": {"start": 0, "end": 2}, "dtype": "bfloat16+int8", "state": "ready",
             "verified": True, "failure": ""}
        ],
    }  # fmt: skip
    assert body["nodes"][0]["uptime_s"] is None
    assert (body["coordinator_id"], body["http_address"]) == (view.coordinator_id, view.http_address)


async def test_no_answer_tells_a_nodes_address() -> None:
    fake = FakeGenerations(script=hello_world)
    async with serving(fake) as url, httpx.AsyncClient(base_url=url) as client:
        answers = [
            (await client.get("/api/v1/swarm")).text,
            (await client.get("/")).text,
            (await client.post("/v1/completions", json={"prompt": "x"})).text,
            (await client.post("/v1/completions", json={"prompt": "x", "stream": True})).text,
        ]
    assert not any("10.9.8." in answer for answer in answers)
    assert all("0" * 8 in answer for answer in answers)
    assert json.loads(answers[0])["nodes"] != replace(fake.view, nodes=()).nodes
