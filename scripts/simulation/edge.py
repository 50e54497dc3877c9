"""Edges of the simulated network, as osai.core.link_pool dials them: only what carries the messages is replaced."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from unittest import mock

from scripts.simulation.connection import End
from scripts.simulation.network import EDGE, Network

from osai.core import link_pool
from osai.core.errors import OsaiError, UnavailableError
from osai.core.link import LinkConfig
from osai.core.member_tls import MemberTls
from osai.proto import edge_pb2

T = TypeVar("T")
Message = edge_pb2.LinkMessage


def address_of(host_id: str) -> str:
    """Where a host serves."""
    return f"{host_id}:1"


def resolve(future: "asyncio.Future[T]", result: T) -> None:
    """Set a result, unless nobody waits for it any more."""
    if not future.done():
        future.set_result(result)


def host_at(address: str) -> str:
    """Who serves there."""
    return address.rpartition(":")[0]


class SimulatedLink:
    """One link, in place of osai.core.link.EdgeLink."""

    def __init__(
        self, network: Network, peer: str, address: str, my_id: str, on_message: Callable[[Message], None]
    ) -> None:
        self.peer = peer
        self._network = network
        self._host = network.hosts[my_id]
        self._target = host_at(address)
        self._on_message = on_message
        self._queued: list[Message] = []
        self._end: End | None = None
        self._over: OsaiError | None = None

    def send(self, message: Message) -> None:
        """As Wire.send."""
        if self._over is not None:
            raise UnavailableError(f"the link to {self.peer} is down", subject=self.peer)
        if self._end is None:
            self._queued.append(message)
        else:
            self._end.send(message)

    async def run(self) -> OsaiError:
        """Dial, and carry messages until the link ends."""
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._network.dial(self._host, self._target, EDGE, lambda end: self._dialled(end, ended))
        try:
            reason = await ended
        finally:
            self._over = UnavailableError(f"the link to {self.peer} was closed", subject=self.peer)
            if self._end is not None:
                self._end.close()
        self._over = UnavailableError(f"{self.peer}: {reason}", subject=self.peer)
        return self._over

    def _dialled(self, end: End | None, ended: "asyncio.Future[str]") -> None:
        if ended.done():
            if end is not None:
                end.close()
        elif end is None:
            ended.set_result("nobody answers")
        else:
            self._end = end
            end.on_message = self._on_message
            end.on_closed = lambda: resolve(ended, "the connection broke")
            for message in self._queued:
                end.send(message)
            self._queued.clear()


@contextmanager
def simulated_edges(network: Network) -> Iterator[None]:
    """Inside, link pools dial over the simulated network."""

    def edge_link(
        peer: str,
        address: str,
        my_id: str,
        on_message: Callable[[Message], None],
        config: LinkConfig | None = None,  # noqa: ARG001
        tls: MemberTls | None = None,  # noqa: ARG001
    ) -> SimulatedLink:
        return SimulatedLink(network, peer, address, my_id, on_message)

    with mock.patch.object(link_pool, "edge_link", edge_link):
        yield
