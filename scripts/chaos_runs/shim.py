"""Relays in front of members: what goes from one member to another can be held, delayed and lost, in one direction.

TCP repairs what the network loses, so that a loss is a delay of a retransmission, and a partition is silence: bytes are
held, connections are accepted and then hear nothing, until the partition is over.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

SEGMENT_BYTES = 1448  # of TCP in an Ethernet frame
RETRANSMISSION_S = 0.2  # Linux's least
HIGH_WATER_BYTES = 2**30  # a relay never says stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How bytes travel from one member to another.

    Attributes:
        is_cut: nothing arrives.
        delay_s, jitter_s: one way: uniformly within delay -+ jitter, in order.
        loss: share of segments that are lost, each of which is sent again after RETRANSMISSION_S.
    """

    is_cut: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0

    def time_s(self, num_bytes: int, draw: random.Random) -> float:
        """How long so many bytes take."""
        time_s = max(0.0, draw.uniform(self.delay_s - self.jitter_s, self.delay_s + self.jitter_s))
        if self.loss:
            num_segments = -(-num_bytes // SEGMENT_BYTES)
            while num_lost := sum(draw.random() < self.loss for _ in range(num_segments)):
                time_s, num_segments = time_s + RETRANSMISSION_S, num_lost
        return time_s


OPEN = Way()


class Network:
    """The ways between members by their names, and who owns which end of a connection.

    Args:
        draw: chance.
        owner_of: name of the member whose process dialled from a local port; "" for nobody of the swarm.
    """

    def __init__(self, draw: random.Random, owner_of: Callable[[int], str]) -> None:
        self.draw = draw
        self.owner_of = owner_of
        self._ways: dict[tuple[str, str], Way] = {}
        self._everywhere = OPEN
        self._pipes: set[Pipe] = set()

    def way(self, source: str, target: str) -> Way:
        """From `source` to `target`; who is no member is never held up."""
        return self._ways.get((source, target), self._everywhere) if source and target else OPEN

    def set(self, source: str, target: str, way: Way) -> None:
        """Change one direction."""
        self._ways[source, target] = way
        self._release()

    def set_everywhere(self, way: Way) -> None:
        """Change all directions that were not set."""
        self._everywhere = way
        self._release()

    def heal(self) -> None:
        """All is well again."""
        self._ways.clear()
        self.set_everywhere(OPEN)

    def joined(self, pipe: "Pipe") -> None:
        """A pipe is there."""
        self._pipes.add(pipe)

    def left(self, pipe: "Pipe") -> None:
        """A pipe has gone."""
        self._pipes.discard(pipe)

    def _release(self) -> None:
        for pipe in list(self._pipes):
            pipe.release()


class Pipe(asyncio.Protocol):
    """One end of a relayed connection: what comes in here leaves at `far`, when its way lets it."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        self._network, self._source, self._target = network, source, target
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # (due, data); None: the end of the stream
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.far: Pipe | None = None

    def name(self, source: str) -> None:
        """Who is at this end."""
        self._source = source

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._network.joined(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come in."""
        way = self._network.way(self._source, self._target)
        self._hold(time.monotonic() + way.time_s(len(data), self._network.draw), data)

    def connection_lost(self, _: Exception | None) -> None:
        """This end has gone: the other one learns of it as of any byte."""
        self._transport = None
        self._hold(time.monotonic(), None)

    def write(self, data: bytes | None) -> None:
        """Let bytes out here, or end."""
        if self._transport is None:
            return
        if data is None:
            self._transport.close()
        else:
            self._transport.write(data)

    def release(self) -> None:
        """Let out what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.far is None or self._network.way(self._source, self._target).is_cut:
            return
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self.far.write(self._waiting.popleft()[1])
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self._waiting[0][0] - time.monotonic()), self.release)
        elif self._transport is None:
            self._network.left(self)

    def abort(self) -> None:
        """Drop the connection, and what is on its way."""
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()

    def _hold(self, due: float, data: bytes | None) -> None:
        if self._waiting:
            due = max(due, self._waiting[-1][0])  # nothing overtakes
        self._waiting.append((due, data))
        self.release()


class Shim:
    """Stands in front of one member's port.

    Args:
        network: the ways.
        member: its name.
        port: of both; the shim listens on LISTENS, the member on SERVES.
    """

    LISTENS = "127.0.0.1"
    SERVES = "127.0.0.2"

    def __init__(self, network: Network, member: str, port: int) -> None:
        self._network, self._member, self._port = network, member, port
        self._pipes: list[Pipe] = []
        self._dialling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[None]:
        """Relay while the block runs."""
        server = await asyncio.get_running_loop().create_server(self._accept, self.LISTENS, self._port)
        try:
            yield
        finally:
            server.close()
            for task in self._dialling:
                task.cancel()
            for pipe in self._pipes:
                pipe.abort()

    def _accept(self) -> Pipe:
        near = _Accepted(self._network, "", self._member)
        near.when_made = lambda port: self._dial_later(near, port)
        self._pipes.append(near)
        return near

    def _dial_later(self, near: Pipe, port: int) -> None:
        task = asyncio.ensure_future(self._dial(near, port))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dial(self, near: Pipe, port: int) -> None:
        dialler = await asyncio.to_thread(self._network.owner_of, port)
        near.name(dialler)
        far = Pipe(self._network, self._member, dialler)
        self._pipes.append(far)
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, self.SERVES, self._port)
        except OSError:
            near.abort()  # as if it had dialled the member itself: refused
            return
        near.far, far.far = far, near
        near.release()
        far.release()


class _Accepted(Pipe):
    """The end that was dialled: who dialled is known once it is connected."""

    when_made: Callable[[int], None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.when_made(transport.get_extra_info("peername")[1])
