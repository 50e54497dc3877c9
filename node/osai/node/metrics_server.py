"""The node's `/metrics`: on the loop, as what it reads belongs to the loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from osai.core.errors import SetupError

DEFAULT_HOST = "127.0.0.1"
STOP_S = 1.0


def parse_metrics_address(text: str) -> tuple[str, int]:
    """HOST and PORT of `--metrics`; a port alone is on loopback.

    Raises:
        SetupError: if it is no address.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) >= 2**16:
        raise SetupError(f"--metrics {text!r} is no address; write HOST:PORT, as in {DEFAULT_HOST}:9090")
    return host.strip("[]") or DEFAULT_HOST, int(port)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def serving_metrics(registry: CollectorRegistry, address: str) -> AsyncIterator[str]:
    """Serve the registry inside the context; its URL.

    Raises:
        SetupError: if the address can't be bound.
    """
    host, port = parse_metrics_address(address)

    async def scrape(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as e:
            raise SetupError(f"--metrics {address} can't be listened on ({e.strerror}): choose another port") from e
        bound = runner.addresses[0]
        yield f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}/metrics"
    finally:
        await runner.cleanup()
