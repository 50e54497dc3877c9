"""Bench `page`: how heavy the health page of a large swarm is, and how long a browser takes to show it."""

import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from random import Random
from typing import TYPE_CHECKING

import click
from prometheus_client import CollectorRegistry
from scripts.benches.cli import NotHereError, command_line, count_option, output_options, run_asked
from scripts.benches.figure import MILLISECONDS
from scripts.benches.page_swarm import NOW_S, StillGenerations, draw_figures, draw_view
from scripts.benches.report import Result, note
from scripts.benches.samples import Summary
from scripts.benches.table import Table

from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer
from osai.coordinator.health.public_page import PublicPage

if TYPE_CHECKING:
    from playwright.async_api import Browser

BAR_BYTES = 100_000
BAR_S = 1.0
SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured.

    Attributes:
        num_nodes, num_models: of the swarm.
        num_loads: of the page, each in a browser context of its own: nothing is cached.
    """

    num_nodes: int = 1000
    num_models: int = 20
    num_loads: int = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load: bytes over the wire by path, and seconds until all was there and painted."""

    bytes_by_path: dict[str, int]
    load_s: float
    painted_s: float


async def run(options: Options) -> Result:
    """Load the page again and again."""
    if find_spec("playwright") is None or (chromium := shutil.which("chromium")) is None:
        raise NotHereError(
            "bench page needs a browser and what drives it: `apt-get install chromium` and `pip install playwright`"
        )
    from playwright.async_api import async_playwright  # noqa: PLC0415 - it is not on every machine

    view = draw_view(options.num_nodes, options.num_models, Random(SEED))  # noqa: S311 - a seed repeats it
    figures = draw_figures(view, Random(SEED))  # noqa: S311
    page = PublicPage(lambda: view, wall_clock=lambda: NOW_S)
    page.frames.figures = lambda: figures
    async with _serving(page, StillGenerations(view)) as url, async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=chromium, args=arguments)
        await _load(browser, url)  # the browser itself warms up
        loads = [await _load(browser, url) for _ in range(options.num_loads)]
        await browser.close()
    render_s = [_timed_frame(page) for _ in range(options.num_loads)]
    weight = sum(loads[0].bytes_by_path.values())
    note(f"{weight} bytes, {MILLISECONDS.show(Summary.of([load.load_s for load in loads]).median)}")
    return _result(options, loads, render_s)


@asynccontextmanager
async def _serving(page: PublicPage, generations: StillGenerations) -> AsyncIterator[str]:
    app = create_app(generations, metrics=Metrics(CollectorRegistry()), page=page)
    async with HttpServer(app, host="127.0.0.1", port=0, on_stop=page.close) as server:
        yield server.url


async def _load(browser: "Browser", url: str) -> Load:
    """Load it once, the stream of events left out."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    await context.route("**/live?*", lambda route: route.abort())
    protocol = await context.new_cdp_session(page)
    await protocol.send("Network.enable")
    paths: dict[str, str] = {}
    sizes: dict[str, int] = {}
    protocol.on("Network.responseReceived", lambda event: paths.update({event["requestId"]: event["response"]["url"]}))
    protocol.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    begun_s = time.perf_counter()
    await page.goto(url, wait_until="load")
    load_s = time.perf_counter() - begun_s
    painted_ms = await page.evaluate(
        "new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
    )
    await context.close()
    by_path = {paths[request].removeprefix(url): size for request, size in sizes.items() if request in paths}
    return Load(bytes_by_path=by_path, load_s=load_s, painted_s=painted_ms / 1e3)


def _timed_frame(page: PublicPage) -> float:
    begun_s = time.perf_counter()
    page.frames.render_anew()
    return time.perf_counter() - begun_s


def _result(options: Options, loads: list[Load], render_s: list[float]) -> Result:
    num_bytes = [sum(load.bytes_by_path.values()) for load in loads]
    load, painted, render = (
        Summary.of(times) for times in ([x.load_s for x in loads], [x.painted_s for x in loads], render_s)
    )
    bar = f"< {MILLISECONDS.show(BAR_S)}"
    return Result(
        name="page",
        title=f"the health page of {options.num_nodes} nodes and {options.num_models} models in Chromium, "
        f"medians of {options.num_loads} loads",
        command=command_line("page", nodes=options.num_nodes, models=options.num_models, loads=options.num_loads),
        table=Table(
            header=("figure", "measured", "p95", "bar"),
            rows=(
                ("over the wire", f"{Summary.of([float(n) for n in num_bytes]).median / 1e3:.1f} kB", "", "< 100 kB"),
                ("loaded", MILLISECONDS.show(load.median), MILLISECONDS.show(load.p95), bar),
                ("painted", MILLISECONDS.show(painted.median), MILLISECONDS.show(painted.p95), bar),
                ("one frame for all readers", MILLISECONDS.show(render.median), MILLISECONDS.show(render.p95), ""),
            ),
        ),
        notes=(
            "Page, style and script with their headers, as Chromium counts them; nothing is cached or compressed.",
            "Server and browser share this machine. Loaded: from the request to the page's load event.",
        ),
        figures={
            **asdict(options),
            "bar_bytes": BAR_BYTES,
            "bar_s": BAR_S,
            "bytes": num_bytes,
            "bytes_by_path": loads[0].bytes_by_path,
            "load_s": [x.load_s for x in loads],
            "painted_s": [x.painted_s for x in loads],
            "render_s": render_s,
        },
    )


@click.command("page")
@count_option("--nodes", "num_nodes", Options().num_nodes, "Of the swarm.")
@count_option("--models", "num_models", Options().num_models, "That it serves.")
@count_option("--loads", "num_loads", Options().num_loads, "Of the page.")
@output_options
def command(**given: object) -> None:
    """Weight of the health page of a large swarm, and the time that Chromium takes to show it."""
    run_asked(run, Options, given)
