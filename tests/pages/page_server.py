"""A health page on a free port, in a thread of its own: so that a test can drive a browser meanwhile."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from gateway.fake_generations import FakeGenerations
from osai.coordinator.api import Generations
from osai.coordinator.gateway.app import create_app
from osai.coordinator.gateway.metrics import Metrics
from osai.coordinator.gateway.server import HttpServer
from osai.coordinator.health.public_page import PublicPage
from osai.coordinator.health.stream import MAX_READERS
from osai.coordinator.history.keeper import History

DEADLINE_S = 15.0


@dataclass
class PageServer:
    """What to serve, and once it runs, where."""

    fake: FakeGenerations
    history: History | None = None
    generations: Generations | None = None
    max_readers: int = MAX_READERS
    wall_clock: Callable[[], float] = time.time
    port: int = 0
    url: str = ""
    page: PublicPage = field(init=False)

    def http(self) -> HttpServer:
        """The server, not started."""
        self.page = PublicPage(
            self.fake.swarm, history=self.history, max_readers=self.max_readers, wall_clock=self.wall_clock
        )
        app = create_app(self.generations or self.fake, metrics=Metrics(CollectorRegistry()), page=self.page)
        return HttpServer(app, host="127.0.0.1", port=self.port, stop_deadline_s=1.0, on_stop=self.page.close)


@contextmanager
def running(server: PageServer) -> Iterator[PageServer]:
    """Serve in a thread."""
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with server.http() as http:
            server.url, server.port = http.url, http.address[1]
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="page-server")
    thread.start()
    try:
        if not started.wait(DEADLINE_S):
            raise AssertionError("the page's server did not start")
        yield server
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)
