"""Runs an ASGI app under uvicorn inside the running event loop."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from osai.coordinator.gateway.connection import BoundedHead
from osai.coordinator.gateway.listener import bind_listener
from osai.core.errors import SetupError

logger = logging.getLogger(__name__)

_START_DEADLINE_S = 10.0  # the socket is bound already: this is a few callbacks
_CANCEL_DEADLINE_S = 2.0  # for requests to clean up after a stop has cancelled them


class _Uvicorn(uvicorn.Server):
    """uvicorn's server without its signal handlers, and with an event for when it accepts."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's own matter."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        self.accepting.set()


class HttpServer:
    """An HTTP server on one address: an async context manager, or `start` and `stop`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        tls: tuple[Path, Path] | None = None,
        flag: str = "--http",
        stop_deadline_s: float = 5.0,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what `start` needs.

        Args:
            app: what it serves.
            host: a name or an address.
            port: 0 for a free one.
            tls: files of its certificate chain and key, PEM; None for plain HTTP.
            flag: the command-line flag that sets the address, for error messages.
            stop_deadline_s: how long `stop` waits for running requests before it cancels them.
            on_stop: is called when a stop begins, to end what would never end by itself.
        """
        self._app = app
        self._host = host
        self._port = port
        self._tls = tls
        self._flag = flag
        self._stop_deadline_s = stop_deadline_s
        self._on_stop = on_stop
        self._bound: tuple[str, int] | None = None
        self._server: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The bound host and port.

        Raises:
            SetupError: before `start`.
        """
        if self._bound is None:
            raise SetupError("the HTTP server has no address before it is started")
        return self._bound

    @property
    def url(self) -> str:
        """`http://HOST:PORT` of the bound address, or https; raises SetupError before `start`."""
        host, port = self.address
        scheme = "https" if self._tls else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def start(self) -> None:
        """Return once requests are accepted.

        Raises:
            SetupError: if the address can't be bound.
        """
        if self._serving is not None:
            raise SetupError("the HTTP server is running already")
        try:
            self._server = _Uvicorn(self._config())
            self._server.config.load()  # reads the certificate
        except OSError as e:  # ssl.SSLError is one
            raise SetupError(f"the HTTPS certificate or key can't be used ({e}): PEM files are read") from e
        listener = await bind_listener(self._host, self._port, flag=self._flag)
        self._bound = listener.getsockname()[:2]
        self._serving = asyncio.create_task(self._server.serve([listener]), name="http-server")
        accepting = asyncio.create_task(self._server.accepting.wait())
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                await asyncio.wait({accepting, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as e:
            await self.stop()
            raise SetupError(f"the HTTP server at {self.url} did not come up within {_START_DEADLINE_S:g} s") from e
        except asyncio.CancelledError:
            await self.stop()
            raise
        finally:
            accepting.cancel()
        if self._serving.done():
            self._serving.result()  # raises what broke it

    async def stop(self) -> None:
        """Accept nothing more, let running requests end, and cancel those that outstay `stop_deadline_s`."""
        if self._serving is None or self._server is None:
            return
        serving, self._serving = self._serving, None
        state = self._server.server_state
        self._on_stop()
        self._server.should_exit = True
        try:
            async with asyncio.timeout(self._stop_deadline_s + _CANCEL_DEADLINE_S):
                await serving
        except TimeoutError:  # which has cancelled it
            logger.exception("the HTTP server did not stop in time")
        if state.tasks:  # cancelled by now
            await asyncio.wait(set(state.tasks), timeout=_CANCEL_DEADLINE_S)
        if state.tasks:
            logger.error("%s cancelled HTTP requests are still cleaning up", len(state.tasks))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            http=BoundedHead,
            ws="none",
            lifespan="off",  # a failing one would leave by sys.exit
            log_config=None,  # logging is the process's own matter
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=self._tls[0] if self._tls else None,
            ssl_keyfile=str(self._tls[1]) if self._tls else None,
            timeout_graceful_shutdown=self._stop_deadline_s,  # type: ignore[arg-type]  # only asyncio.wait_for takes it
        )
