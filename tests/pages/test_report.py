"""The page's JSON, its badges, and that nothing of it tells where a machine is."""

import json
import re
import time
from importlib.resources import files
from random import Random
from xml.etree import ElementTree as ET

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from scripts.benches.page_swarm import draw_figures, draw_view

from coordinator.keys_world import Keys, bearer
from gateway.fake_generations import MODEL, FakeGenerations, example_model, example_node, example_swarm
from gateway.front_door import serving
from osai.coordinator.api import NodeView, SpanView, SwarmView
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.health.badge import badge_svg, state_of
from osai.coordinator.health.figures import Figures
from osai.coordinator.health.page import PACKAGE, HealthPage
from osai.coordinator.health.redaction import redacted
from osai.coordinator.health.report import swarm_health
from osai.coordinator.history.past import Contributor, Past
from osai.coordinator.keys.api_key import Scope
from osai.core.layers import LayerRange

PAGE = HealthPage()


async def test_the_report_is_what_the_page_shows() -> None:
    view = draw_view(12, 3, Random(1))
    figures = draw_figures(view, Random(2))
    report = json.loads(swarm_health(view, figures, at_s=1.5).model_dump_json())
    assert [model["state"] for model in report["models"]] == ["down", "degraded", "degraded"]
    assert [len(model["replicas"]) for model in report["models"]] == [32, 48, 80]
    assert len(report["nodes"]) == 12
    assert report["nodes"][0]["spans"][0]["model_id"] == "example/amber-0-8B"
    assert report["history"]["kept"]
    assert sum(report["history"]["watched_minutes"]) == 24 * 60
    times = report["models"][1]["time_per_token"]
    assert 0.01 < times["p50_s"] <= times["p95_s"] < 0.2
    assert 1 < report["models"][1]["energy_j_per_token"] < 100
    assert {"name": "amber labs", "num_nodes": 1, "num_tokens_24h": 9_000_000, "num_tokens_30d": 10**9} in report[
        "contributors"
    ]
    assert {"address", "edge_address", "http_address"}.isdisjoint(re.findall(r'"(\w+)":', json.dumps(report)))


async def test_it_is_served_fresh_and_documented() -> None:
    async with serving(FakeGenerations()) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/api/v1/health")
        document = (await client.get("/openapi.json")).json()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["models"][0]["model_id"], body["history"]["kept"]) == (MODEL, False)
    schema = document["paths"]["/api/v1/health"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    described = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert set(described["properties"]) == set(body)


@pytest.mark.parametrize(
    ("replicas", "state"), [((2, 2, 3, 2, 2, 2), "served"), ((2, 2, 1, 2, 2, 2), "degraded"), ((2, 0) * 3, "down")]
)
async def test_a_badge_says_how_a_model_is(replicas: tuple[int, ...], state: str) -> None:
    view = example_swarm(models=(example_model("org/model", replicas=replicas),))
    async with serving(FakeGenerations(view=view)) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/badge/org/model.svg")
        unknown = await client.get("/badge/org/other.svg")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    assert answer.headers["content-security-policy"] == "default-src 'none'"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert ET.fromstring(answer.text).attrib["aria-label"] == f"org/model: {state}"  # noqa: S314 - our own
    assert unknown.status_code == 404
    assert "org/other: unknown" in unknown.text
    assert state_of(view.models[0]) == state


@given(st.text(max_size=80))
def test_a_badge_is_one_well_formed_picture_whatever_the_name(name: str) -> None:
    root = ET.fromstring(badge_svg(name, "served"))  # noqa: S314 - our own
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags == {"svg", "title", "clipPath", "rect", "g", "text"}
    assert float(root.attrib["width"]) < 420


TEXT = st.text(max_size=12)
ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded),
    st.ip_addresses(v=4).map(lambda address: str(address).replace(".", "-")),
)


@given(TEXT, ADDRESSES, TEXT)
def test_no_address_survives_in_a_text(before: str, address: str, after: str) -> None:
    assert address not in redacted(before + address + after)


@pytest.mark.parametrize("text", ["a" * 50_000, "a:" * 25_000, "1." * 25_000, "1-" * 25_000 + "x", ":" * 50_000])
def test_a_long_text_costs_no_more_than_its_length(text: str) -> None:
    begun_s = time.process_time()
    redacted(text)
    assert time.process_time() - begun_s < 0.5  # what grows with the square of it takes many seconds


@pytest.mark.parametrize(
    "text", ["osai/0.1.0", "NVIDIA GeForce RTX 4090", "12:30:45", "layers 4:6", "org/model-7B", "CPU x86_64, 8 cores"]
)
def test_what_is_no_address_is_left_alone(text: str) -> None:
    assert redacted(text) == text


@st.composite
def told(draw: st.DrawFn) -> tuple[SwarmView, Figures, set[str]]:
    """A swarm whose nodes, and whose coordinator, tell addresses wherever they can."""
    addresses: set[str] = set()

    def text() -> str:
        address = draw(ADDRESSES)
        addresses.add(address)
        return draw(st.sampled_from(("", "at ", "http://", "x"))) + address + draw(st.sampled_from(("", ":4000", "!")))

    spans = tuple(
        SpanView(model_id=text(), span=LayerRange(0, 2), dtype=text(), state=text(), verified=True, failure=text())
        for _ in range(draw(st.integers(0, 2)))
    )
    node = NodeView(
        node_id=text(), name=text(), software=text(), device=text(), memory_bytes=1, state=text(), spans=spans,
        num_sessions=0, uptime_s=1.0, operator=text(),
    )  # fmt: skip
    view = SwarmView(
        coordinator_id=text(), software=text(), http_address=f"http://{text()}", dht_addresses=(text(),),
        models=(example_model(licence=text(), missing=text()),), nodes=(node,), coordinators=(text(),),
    )  # fmt: skip
    one = Contributor(name=text(), num_nodes=1, tokens_day=1, tokens_month=1)
    return view, Figures(past=Past(trouble=text(), contributors=(one,))), addresses


@settings(max_examples=60)
@given(told())
def test_neither_page_nor_report_nor_badge_tells_an_address(given_view: tuple[SwarmView, Figures, set[str]]) -> None:
    view, figures, addresses = given_view
    shown = [
        PAGE.html(view, own_url="http://swarm.example/", now_s=0.0, figures=figures),
        swarm_health(view, figures, at_s=0.0).model_dump_json(),
        *(badge_svg(model.model_id, state_of(model)) for model in view.models),
    ]
    for text in shown:
        for address in addresses:
            assert address not in text


async def test_what_nodes_say_on_the_other_api_tells_no_address_either() -> None:
    span = SpanView(
        model_id=MODEL,
        span=LayerRange(0, 2),
        dtype="bf16",
        state="failed",
        verified=False,
        failure="10.9.8.7:1 is lost",
    )
    node = example_node(name="ip-10-9-8-7", device="at 2001:db8::7", spans=(span,))
    async with serving(FakeGenerations(view=example_swarm(nodes=(node,)))) as url, httpx.AsyncClient() as client:
        answer = (await client.get(f"{url}/api/v1/swarm")).text
    assert not re.search(r"10.9.8.7|db8", answer)
    assert answer.count("[address]") == 3


def test_a_thousand_nodes_and_twenty_models_weigh_under_100_kb_with_style_and_script() -> None:
    view = draw_view(1000, 20, Random(1))
    html = PAGE.html(view, own_url="http://swarm.example/", now_s=0.0, figures=draw_figures(view, Random(2)))
    static = files(PACKAGE) / "static"
    weight = len(html.encode()) + sum(len((static / name).read_bytes()) for name in ("page.css", "page.js"))
    assert weight < 100_000
    assert all(f"<h3>{model.model_id}" in html for model in view.models)
    assert "Page 1 of 40" in html


async def test_where_keys_are_asked_for_the_page_is_open_and_says_how_and_the_report_is_not() -> None:
    keys = Keys()
    mine = keys.make(Scope.SWARM, models=("mine",))
    view = example_swarm(models=(example_model("mine"), example_model("other")))
    app = create_app(FakeGenerations(view=view), metrics=Metrics(CollectorRegistry()), keyring=keys.keyring)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        page, refused = await client.get("/"), await client.get("/api/v1/health")
        report = (await client.get("/api/v1/health", headers={"authorization": bearer(mine)})).json()
    assert refused.status_code == 401
    assert [model["model_id"] for model in report["models"]] == ["mine"]
    assert "This coordinator asks for an API key" in page.text
    assert "Authorization: Bearer YOUR_KEY" in page.text
    assert "<form" not in page.text
