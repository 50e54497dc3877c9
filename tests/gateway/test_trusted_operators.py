"""`trusted_operators` over HTTP, and what the front door says of privacy."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.fake_generations import FakeGenerations, example_node, example_swarm, hello_world
from gateway.front_door import BODY, error_of, serving
from gateway.page_text import html_of, text_of

PRIVACY = Path(__file__).parents[2] / "docs" / "privacy.md"
KEY, OTHER = b"\x0a" * 32, b"\x0b" * 32


async def post(generations: FakeGenerations, path: str, body: dict[str, Any]) -> httpx.Response:
    async with serving(generations) as url, httpx.AsyncClient(base_url=url) as client:
        return await client.post(path, json=body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", BODY),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
async def test_operators_are_named_in_hex(path: str, body: dict[str, Any]) -> None:
    fake = FakeGenerations(script=hello_world)
    named = body | {"trusted_operators": [KEY.hex(), OTHER.hex().upper(), KEY.hex()]}
    for asked in (named, body, body | {"trusted_operators": None}):
        assert (await post(fake, path, asked)).status_code == 200
    assert [request.trusted_operators for request in fake.requests] == [{KEY, OTHER}, frozenset(), frozenset()]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "one or more public keys"),
        (KEY.hex(), "one or more public keys"),
        ({}, "one or more public keys"),
        ([1], "one or more public keys"),
        ([KEY.hex(), ""], "has 0 bytes"),
        (["me.pub"], "64 hex digits"),
        ([KEY.hex() + "00"], "has 33 bytes"),
        ([f"{i:064x}" for i in range(65)], "at most 64"),
    ],
)
async def test_what_names_no_operators_is_refused(value: object, reason: str) -> None:
    """An empty list would let every node in."""
    fake = FakeGenerations(script=hello_world)
    response = await post(fake, "/v1/completions", BODY | {"trusted_operators": value})
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, "trusted_operators")
    assert reason in error["message"]
    assert fake.requests == []


def test_the_page_says_what_nodes_can_see_by_public_and_private() -> None:
    public, private = text_of(example_swarm()), text_of(example_swarm(private=True))
    assert "This swarm is public: anybody may run its nodes, and those of a pipeline can probably reconstruct" in public
    assert "send nothing that you would not publish" in public.lower()
    assert "This swarm is private: nobody but its members gets at what crosses it" in private
    assert "can still probably reconstruct the prompts" in private
    assert "This swarm is public" not in private
    assert "would not publish" not in private
    assert '<a href="privacy">' in html_of(example_swarm())


async def test_the_page_leads_to_all_that_there_is_to_say() -> None:
    async with serving(FakeGenerations()) as url, httpx.AsyncClient(base_url=url) as client:
        response = await client.get("/privacy")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.content == PRIVACY.read_bytes()


def test_the_page_shows_whose_a_node_is() -> None:
    nodes = (example_node(1, operator=KEY.hex()), example_node(2))
    text = text_of(example_swarm(nodes=nodes))
    assert text.count("operator") == 1
    assert f"operator {KEY.hex()[:16]} " in text
    assert KEY.hex()[:17] not in text
