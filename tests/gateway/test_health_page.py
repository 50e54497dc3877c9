"""The health page: what it says, what it escapes, how large it gets."""

import re
from html.parser import HTMLParser

import httpx
import pytest

from gateway.fake_generations import FakeGenerations, example_model, example_node, example_swarm
from gateway.front_door import serving
from gateway.page_text import html_of, text_of
from osai.coordinator.api import SpanView
from osai.core.layers import LayerRange

HOSTILE = "<script>alert('x')</script>\"&"
VOID = {"meta", "link", "br"}
IMPLIED = {"th", "td", "tr"}  # elements whose end tag HTML lets us leave out


class Outline(HTMLParser):
    """Collects elements, and fails on one that is closed in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] != tag and self.open[-1] in IMPLIED:
            self.open.pop()
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_a_covered_model_is_servable_and_thin_places_are_told() -> None:
    text = text_of(example_swarm())
    assert "osai/demo ✓ servable signed" in text
    assert "6 layers · context 2,048 tokens · licence: Apache-2.0" in text
    assert "Nodes by layer 0:2 on 1, 2:4 on 2, 4:6 on 3" in text
    assert "Only one node hosts layers 0:2" in text
    assert "No ready node" not in text
    assert "UNSIGNED" not in text


def test_missing_layers_and_a_missing_signature_stand_out() -> None:
    view = example_swarm(models=(example_model(replicas=(0, 2, 0, 0, 2, 2), signed=False, licence=""),))
    text = text_of(view)
    assert "✕ not servable ⚠ UNSIGNED" in text
    assert "No ready node hosts layers 0:1, 2:4: requests are refused until one does." in text
    assert "no licence stated" in text
    assert "Models servable 0 of 1" in text
    assert "Only one node" not in text


def test_the_strip_has_a_cell_a_layer_and_words_for_those_who_cannot_see_it() -> None:
    page = outline(html_of(example_swarm(models=(example_model(replicas=(0, 1, 2, 3, 4, 4)),))))
    strips = [attributes for tag, attributes in page.seen if tag == "svg" and attributes.get("class") == "strip"]
    strip = next(attributes for attributes in strips if "role" in attributes)
    assert strip["role"] == "img"
    assert strip["aria-label"] == "Ready nodes by layer: layers 0:1 on none, 1:2 on 1, 2:3 on 2, 3:4 on 3, 4:6 on 4"
    assert strip["viewbox"] == "0 0 6 3"
    html = html_of(example_swarm(models=(example_model(replicas=(0, 1, 2, 3, 4, 4)),)))
    drawn = re.search(r'aria-label="Ready[^>]*>(.*?)</svg>', html)
    assert drawn is not None
    assert re.findall(r'class=(r\d) d="([^"]*)"', drawn[1]) == [
        ("r0", "M0 1.5h1"), ("r1", "M1 2.5h1"), ("r2", "M2 2h1"), ("r3", "M3 1.5h3"),
    ]  # fmt: skip


def test_nodes_are_shown_those_in_trouble_first() -> None:
    failed = SpanView(
        model_id="osai/demo",
        span=LayerRange(2, 4),
        dtype="fp8",
        state="failed",
        verified=False,
        failure="lm_head: flipped",
    )
    nodes = (
        example_node(1, name="well", uptime_s=90_000, device="NVIDIA L4", memory_bytes=24_000_000_000),
        example_node(2, name="broken", spans=(failed,), num_sessions=0),
        example_node(3, name="leaving", state="draining", spans=()),
    )
    text = text_of(example_swarm(nodes=nodes))
    assert text.index("broken") < text.index("leaving") < text.index("well")
    assert "broken 00000000 osai/demo 2:4 fp8 failed ⚠ not verified lm_head: flipped" in text
    assert "osai/demo 0:2 bf16 verified NVIDIA L4, 24 GB osai/0.1.0 ready 2 0 1 d 1 h" in text
    assert "leaving 00000000 none cpu, 8 GB osai/0.1.0 draining" in text
    assert "Nodes ready 2 of 3" in text
    assert "Sessions on nodes 4" in text


def test_it_says_how_to_call_and_to_join_and_what_is_not_private() -> None:
    text = text_of(example_swarm(coordinators=("10.1.2.3:7070",)))
    assert "OpenAI's API at http://found.example:80/v1 :" in text
    assert "curl -N http://found.example:80/v1/completions" in text
    assert '"model": "osai/demo"' in text
    assert "osai-node join found.example:7070" in text
    assert "can probably reconstruct the prompt" in text


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://swarm.example:8080/", "http://swarm.example:8080/v1 :"),
        ("swarm.example:8080", "http://swarm.example:8080/v1 :"),
        ("http://203.0.113.7:8080", "http://found.example:80/v1 :"),
        ("http://[2001:db8::1]:8080", "http://found.example:80/v1 :"),
        ("", "http://found.example:80/v1 :"),
    ],
)
def test_its_own_address_is_shown_whatever_its_form(address: str, shown: str) -> None:
    assert f"API at {shown}" in text_of(example_swarm(http_address=address))


def test_an_empty_swarm_says_so() -> None:
    text = text_of(example_swarm(models=(), nodes=(), dht_addresses=()))
    assert "This coordinator serves no model yet." in text
    assert "No node has joined yet." in text
    assert "announces no address to join at" in text
    assert "Models servable 0 of 0" in text


def test_what_strangers_wrote_is_escaped() -> None:
    span = SpanView(
        model_id=HOSTILE, span=LayerRange(0, 1), dtype=HOSTILE, state=HOSTILE, verified=True, failure=HOSTILE
    )
    node = example_node(name=HOSTILE, software=HOSTILE, device=HOSTILE, state=HOSTILE, spans=(span,), node_id=HOSTILE)
    view = example_swarm(
        models=(example_model(HOSTILE, licence=HOSTILE),),
        nodes=(node,),
        coordinator_id=HOSTILE,
        software=HOSTILE,
        http_address=HOSTILE,
        dht_addresses=(HOSTILE,),
        coordinators=(f"{HOSTILE}:1",),
    )
    plain = outline(html_of(example_swarm(models=(example_model(),), nodes=(example_node(),))))
    hostile = outline(html_of(view))
    assert [tag for tag, _ in hostile.seen if tag == "script"] == ["script"]  # the page's own
    assert {name for _, attributes in hostile.seen for name in attributes} == {
        name for _, attributes in plain.seen for name in attributes
    }
    assert html_of(view).count("alert(&#39;x") >= 9


async def test_it_is_served_with_its_files_and_strict_headers() -> None:
    async with serving(FakeGenerations()) as url, httpx.AsyncClient(base_url=url) as client:
        page = await client.get("/")
        links = [
            attributes.get("href") or attributes.get("src")
            for tag, attributes in outline(page.text).seen
            if tag in {"link", "script", "a"}
        ]
        answers = {link: await client.get(f"/{link}") for link in links if link and not link.startswith("data:")}
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'")
    assert {answer.status_code for answer in answers.values()} == {200}
    assert answers["static/page.css"].headers["content-type"].startswith("text/css")
    assert "prefers-color-scheme: dark" in answers["static/page.css"].text
    assert answers["static/page.js"].headers["content-type"].startswith("text/javascript")
    assert "style=" not in page.text  # the policy would refuse it


def test_it_refreshes_with_and_without_scripts() -> None:
    seen = outline(html_of(example_swarm())).seen
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in seen
    assert ("main", {"id": "live", "data-frame": "", "data-refresh-s": "5"}) in seen
