"""Renders the health page and serves it with its two files."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.resources import files

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from osai.coordinator.api import SwarmView
from osai.coordinator.health.view import model_card, node_row, page_view, rank

REFRESH_S = 5  # seconds between refreshes of an open page: its reader sees a departure about when the swarm does
MODELS_BYTES = 22_000  # about a dozen models of 80 layers
NODES_BYTES = 28_000  # about 60 nodes
_PACKAGE = "osai.coordinator.health"
_PAGE_HEADERS = {
    # Names on the page come from strangers. They are escaped; should one ever slip through, nothing of it may run.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_ASSET_HEADERS = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}


class HealthPage:
    """The page's template, ready to be filled with a swarm's view."""

    def __init__(self) -> None:
        environment = Environment(
            loader=PackageLoader(_PACKAGE),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._page = environment.get_template("page.html.j2")
        self._model = environment.get_template("model.html.j2")
        self._node = environment.get_template("node.html.j2")

    def html(self, view: SwarmView, *, own_url: str, now_s: float, num_recoveries: int = 0) -> str:
        """The page; `own_url` is where its reader found it, `now_s` the time to show in seconds since 1970.

        `num_recoveries` are the times that a generation went on over another pipeline since the coordinator started.

        It stays under 60 KB: models and nodes that do not fit are counted, and linked.
        """
        cards = (self._model.render(model=model_card(model)) for model in view.models)
        rows = (self._node.render(node=node_row(node)) for node in sorted(view.nodes, key=rank))
        return self._page.render(
            page=page_view(view, own_url=own_url),
            num_recoveries=num_recoveries,
            models=fitting(cards, MODELS_BYTES),
            nodes=fitting(rows, NODES_BYTES),
            now=datetime.fromtimestamp(now_s, UTC),
            refresh_s=REFRESH_S,
        )


def fitting(parts: Iterable[str], max_bytes: int) -> list[str]:
    """As many of the parts, from the first on, as have room."""
    taken: list[str] = []
    for part in parts:
        max_bytes -= len(part.encode())
        if max_bytes < 0:
            break
        taken.append(part)
    return taken


def health_routes(
    swarm: Callable[[], SwarmView], wall_clock: Callable[[], float], num_recoveries: Callable[[], int]
) -> APIRouter:
    """`/`, its style and its script, and docs/privacy.md."""
    router = APIRouter(include_in_schema=False)
    health_page = HealthPage()
    static = files(_PACKAGE) / "static"
    style = (static / "page.css").read_bytes()
    script = (static / "page.js").read_bytes()
    privacy = (static / "privacy.md").read_bytes()  # a copy: docs/ is in no wheel

    @router.get("/")
    async def page(request: Request) -> Response:
        own_url = str(request.base_url)
        html = health_page.html(swarm(), own_url=own_url, now_s=wall_clock(), num_recoveries=num_recoveries())
        return HTMLResponse(html, headers=_PAGE_HEADERS)

    @router.get("/static/page.css")
    async def page_style() -> Response:
        return Response(style, media_type="text/css", headers=_ASSET_HEADERS)

    @router.get("/static/page.js")
    async def page_script() -> Response:
        return Response(script, media_type="text/javascript", headers=_ASSET_HEADERS)

    @router.get("/privacy")
    async def privacy_text() -> Response:
        return Response(privacy, media_type="text/plain; charset=utf-8", headers=_ASSET_HEADERS)

    return router
