"""The health page's routes: the page, what is live on it, its JSON and its badges."""

from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from osai.coordinator.api import Generations
from osai.coordinator.health.page import PACKAGE
from osai.coordinator.health.public_page import PublicPage
from osai.coordinator.health.report import SwarmHealth
from osai.coordinator.keys.api_key import Scope
from osai.coordinator.keys.caller import caller_of
from osai.coordinator.keys.keyring import Keyring

_BADGE_S = 30  # that a badge may be kept
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
_BADGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",  # it is made for other pages
    "Cache-Control": f"max-age={_BADGE_S}",
}
_FILES = (  # path, file of the package, type
    ("/static/page.css", "page.css", "text/css"),
    ("/static/page.js", "page.js", "text/javascript"),
    ("/privacy", "privacy.md", "text/plain; charset=utf-8"),  # a copy: docs/ is in no wheel
)
_PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


def health_routes(page: PublicPage, generations: Generations, keyring: Keyring | None) -> APIRouter:
    """`/` and what belongs to it, the badges, and `/api/v1/health`, which asks for a key where there is a keyring.

    Args:
        page: what is shown.
        generations: the coordinator: what a key may see of it.
        keyring: the API's keys; None: it asks for none.
    """
    router = APIRouter()
    _add_page(router, page, keyed=keyring is not None)
    _add_files(router)

    @router.get("/badge/{model_id:path}.svg", include_in_schema=False)
    async def badge(model_id: str) -> Response:
        svg, is_known = page.badge(model_id)
        return Response(svg, 200 if is_known else 404, headers=_BADGE_HEADERS, media_type="image/svg+xml")

    @router.get("/api/v1/health", response_model=SwarmHealth)
    async def health(http: Request) -> Response:
        """The swarm's health, as the page at `/` shows it."""
        shown = None
        if keyring is not None:
            caller = caller_of(keyring, http.headers.get("authorization"))
            caller.check(Scope.SWARM)
            shown = {model.model_id for model in caller.generations(generations).swarm().models}
        return Response(page.report(shown), media_type="application/json", headers={"Cache-Control": "no-store"})

    return router


def _add_page(router: APIRouter, page: PublicPage, *, keyed: bool) -> None:
    @router.get("/", include_in_schema=False)
    async def whole(http: Request, page_number: Annotated[_PageNumber, Query(alias="page")] = 1) -> Response:
        html = page.html(own_url=str(http.base_url), keyed=keyed, nodes_page=page_number)
        return HTMLResponse(html, headers=_PAGE_HEADERS)

    @router.get("/nodes", include_in_schema=False)
    async def nodes(page_number: Annotated[_PageNumber, Query(alias="page")] = 1) -> Response:
        return HTMLResponse(page.nodes(page_number), headers=_PAGE_HEADERS)

    @router.get("/live", include_in_schema=False)
    async def live(http: Request, since: str = "") -> Response:
        return page.readers.stream(page.frames, http.headers.get("last-event-id") or since)


def _add_files(router: APIRouter) -> None:
    for path, name, media_type in _FILES:
        _add_file(router, path, (files(PACKAGE) / "static" / name).read_bytes(), media_type)


def _add_file(router: APIRouter, path: str, content: bytes, media_type: str) -> None:
    @router.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=_ASSET_HEADERS)
