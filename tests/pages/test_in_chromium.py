"""The health page in a real browser: live, streaming, accessible, at both widths and in both schemes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, expect
from scripts.benches.page_swarm import NOW_S, draw_figures, draw_view

from gateway.fake_generations import (
    FakeGenerations,
    Step,
    chunk,
    example_model,
    example_node,
    example_swarm,
    finished,
    started,
)
from osai.coordinator.api import GenerationRequest
from pages.page_server import PageServer, running

SEEN_WITHIN_MS = 10_000
PHONE, DESKTOP = {"width": 360, "height": 800}, {"width": 1280, "height": 900}


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[tuple[Page, list[str]]]:  # noqa: ANN401 - Playwright's
    """A page in a context of its own, and what it complains of."""
    context = browser.new_context(**options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto(url)
        yield page, complaints
    finally:
        context.close()


def three_nodes() -> FakeGenerations:
    nodes = tuple(example_node(i, name=f"volunteer {i}") for i in range(3))
    return FakeGenerations(view=example_swarm(models=(example_model(replicas=(2,) * 6),), nodes=nodes))


def lose_a_node(fake: FakeGenerations) -> None:
    """Its second half hangs on one node now."""
    fake.view = example_swarm(models=(example_model(replicas=(2, 2, 2, 1, 1, 1)),), nodes=fake.view.nodes[:2])


def expect_the_loss(page: Page, within_ms: float = SEEN_WITHIN_MS) -> None:
    expect(page.get_by_text("volunteer 2")).to_have_count(0, timeout=within_ms)
    expect(page.get_by_text("Only one node hosts layers 3:6")).to_be_visible(timeout=within_ms)


def test_a_lost_node_and_a_thin_layer_show_within_ten_seconds(browser: Browser) -> None:
    with running(PageServer(three_nodes())) as server, opened(browser, server.url) as (page, complaints):
        expect(page.get_by_text("volunteer 2")).to_be_visible()
        lose_a_node(server.fake)
        begun_s = time.monotonic()
        expect_the_loss(page)
        assert time.monotonic() - begun_s < 10
        drawn = page.locator(".models .strip path").evaluate_all("paths => paths.map(p => p.getAttribute('class'))")
        assert drawn == ["r1", "r2"]
        assert complaints == []


def refused(server: PageServer) -> None:
    server.max_readers = 0


@pytest.mark.parametrize(
    ("prepare", "options"),
    [(refused, {}), (lambda _server: None, {"java_script_enabled": False})],
    ids=["polling", "no scripts"],
)
def test_it_lives_without_the_stream_and_without_scripts(
    browser: Browser, prepare: Callable[[PageServer], None], options: dict[str, Any]
) -> None:
    server = PageServer(three_nodes())
    prepare(server)
    with running(server), opened(browser, server.url, **options) as (page, _):
        expect(page.get_by_text("volunteer 2")).to_be_visible()
        lose_a_node(server.fake)
        expect_the_loss(page)


def test_it_says_that_the_coordinator_is_gone_and_goes_on_with_the_next_one(browser: Browser) -> None:
    fake = three_nodes()
    with running(PageServer(fake)) as first:
        context = browser.new_context()
        page = context.new_page()
        page.goto(first.url)
    expect(page.get_by_text("the coordinator does not answer now")).to_be_visible(timeout=12_000)
    lose_a_node(fake)
    with running(PageServer(fake, port=first.port)):
        expect_the_loss(page)
        expect(page.get_by_text("the coordinator does not answer now")).to_have_count(0)
        context.close()


def slowly(request: GenerationRequest) -> list[Step]:
    return [started(), chunk(0, f"[{request.prompt}] Hel"), 1.5, chunk(1, "lo"), chunk(2, " world"), finished()]


def test_the_box_streams_an_answer(browser: Browser) -> None:
    fake = FakeGenerations(script=slowly)
    with running(PageServer(fake)) as server, opened(browser, server.url) as (page, complaints):
        page.get_by_role("textbox", name="Prompt").fill("Who goes there?")
        page.get_by_role("button", name="Send").click()
        answer = page.get_by_role("region", name="Answer")
        expect(answer).to_have_text("[Who goes there?] Hel")  # and not yet the rest
        assert answer.get_attribute("aria-busy") == "true"
        expect(answer).to_have_text("[Who goes there?] Hello world")
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        assert complaints == []
        page.locator("#ask-kind").select_option("a chat message")
        page.get_by_role("textbox", name="Prompt").press("Control+Enter")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
    assert [message.content for message in fake.requests[1].prompt] == ["Who goes there?"]  # type: ignore[union-attr]
    assert (fake.num_ended, fake.num_cancelled) == (1, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_is_accessible_and_fits(browser: Browser, artefacts: Path, scheme: str, size: dict[str, int]) -> None:
    view = draw_view(8, 2, Random(1))
    server = PageServer(FakeGenerations(view=view), wall_clock=lambda: NOW_S)
    figures = draw_figures(view, Random(2))
    options = {"color_scheme": scheme, "viewport": size}
    with running(server):
        server.page.frames.figures = lambda: figures
        with opened(browser, server.url, **options) as (page, complaints):
            page.screenshot(path=artefacts / f"page-{size['width']}-{scheme}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert complaints == []


def test_it_is_used_by_keyboard_and_nodes_have_pages(browser: Browser) -> None:
    nodes = tuple(example_node(i, name=f"node-{i:03}") for i in range(60))
    fake = FakeGenerations(view=example_swarm(nodes=nodes))
    with running(PageServer(fake)) as server, opened(browser, server.url) as (page, complaints):
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the models")).to_be_focused()
        page.locator("#page-on").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_text("node-025")).to_be_visible()
        expect(page.locator("#page-on")).to_be_focused()
        fake.view = example_swarm(nodes=tuple(example_node(i, name=f"other-{i:03}") for i in range(60)))
        expect(page.get_by_text("other-025")).to_be_visible(timeout=SEEN_WITHIN_MS)
        expect(page.locator("#page-on")).to_be_focused()  # though all around it was replaced
        assert page.url.endswith("?page=2")
        page.keyboard.press("Enter")
        expect(page.get_by_text("other-059")).to_be_visible()
        assert complaints == []
