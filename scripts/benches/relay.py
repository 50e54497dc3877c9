"""A TCP relay in user space that counts and delays: what travels between two processes, as it is on the wire.

A delay is one way, and the same in both directions. It holds bytes back without limiting how many are on their way,
as a long cable does; their order stays. Timers of event loops round to milliseconds, so that the relay has its own.
"""

import asyncio
import random
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from scripts.benches.fine_timer import FineTimer

from osai.core.errors import SetupError

LASTING_PORTS = range(10_000, 32_000)  # Linux gives outgoing connections 32768 and on
MAX_PORT_TRIES = 100
HIGH_WATER_BYTES = 2**30  # a relay never says stop: what is on its way is limited by who sends


class Direction(asyncio.Protocol):
    """One end of a relayed connection: what comes in here leaves at the other end, `relay.delay_s` later.

    Attributes:
        num_bytes: that have come in here.
    """

    def __init__(self, relay: "Relay", timer: FineTimer) -> None:
        self._relay = relay
        self._timer = timer
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # (due, data); None: the end of the stream
        self._transport: asyncio.Transport | None = None
        self._far: Direction | None = None
        self.num_bytes = 0

    def join(self, far: "Direction") -> None:
        """From now on, bytes leave at `far`."""
        self._far = far
        self._release()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected. Nagle's algorithm is off: it would wait for the other side's acknowledgements."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Bytes have come in."""
        self.num_bytes += len(data)
        self._hold(data)

    def connection_lost(self, _: Exception | None) -> None:
        """This end has gone: the other one goes as soon as all has left it."""
        self._hold(None)
        self._transport = None

    def abort(self) -> None:
        """Drop the connection, and what is on its way."""
        self._waiting.clear()
        self._timer.close()
        if self._transport is not None:
            self._transport.abort()

    def _hold(self, data: bytes | None) -> None:
        due = time.monotonic() + self._relay.delay_s
        if self._waiting:  # a delay that was shortened lets nothing overtake
            due = max(due, self._waiting[-1][0])
        self._waiting.append((due, data))
        self._release()

    def _release(self) -> None:
        if self._far is None:
            return
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self._far.write(self._waiting.popleft()[1])
        if self._waiting:
            self._timer.set(self._waiting[0][0], self._release)

    def write(self, data: bytes | None) -> None:
        """Let bytes out here, or end."""
        if self._transport is None:
            return
        if data is None:
            self._transport.close()
        else:
            self._transport.write(data)


class Relay:
    """Accepts connections in the place of `target`, and relays each to it.

    Attributes:
        delay_s: one way; may be changed at any time, for what comes in from then on.

    Args:
        target: HOST:PORT.
    """

    def __init__(self, target: str, delay_s: float = 0.0) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self.delay_s = delay_s
        self._connections: list[tuple[Direction, Direction]] = []
        self._dialling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        """Relay while the block runs; gives HOST:PORT."""
        server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            server.close()
            for task in self._dialling:
                task.cancel()
            for ends in self._connections:
                for end in ends:
                    end.abort()

    def counts(self) -> list[tuple[int, int]]:
        """Of each connection so far: bytes that came from who dialled, and bytes that came from the target."""
        return [(near.num_bytes, far.num_bytes) for near, far in self._connections]

    def _accept(self) -> Direction:
        near, far = Direction(self, FineTimer()), Direction(self, FineTimer())
        self._connections.append((near, far))
        task = asyncio.ensure_future(self._dial(near, far))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        return near

    async def _dial(self, near: Direction, far: Direction) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, self._host, self._port)
        except OSError:
            near.abort()  # as if it had dialled the target itself: refused
            return
        near.join(far)
        far.join(near)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now.

    It is none of those that outgoing connections get, so that it is still free when its owner is started again.

    Raises:
        SetupError: if there is none.
    """
    for port in random.sample(LASTING_PORTS, MAX_PORT_TRIES):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise SetupError(f"no port of {MAX_PORT_TRIES} tried is free on the loopback interface: stop other programs")
