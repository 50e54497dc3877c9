"""The requests of a chunk plan that are out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from osai.core.manifest import Chunk
from osai.node.weights import bits
from osai.node.weights.plan_actions import PlanConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One that is out; `peer` is None where the source is read."""

    number: int
    peer: str | None
    chunk: int
    asked_s: float
    deadline_s: float


class PlanRequests:
    """Numbered as they are made; of each chunk there is at most one.

    Args:
        chunks: of the manifest, in order.

    Attributes:
        asked: set of the chunks that are asked for.
    """

    def __init__(self, config: PlanConfig, chunks: Sequence[Chunk]) -> None:
        self._config = config
        self._chunks = chunks
        self._out: dict[int, Request] = {}
        self._last = 0
        self.asked = 0

    def __len__(self) -> int:
        return len(self._out)

    @property
    def num_of_peers(self) -> int:
        """Requests that peers are to answer."""
        return sum(request.peer is not None for request in self._out.values())

    @property
    def num_of_source(self) -> int:
        """Reads of the source."""
        return len(self._out) - self.num_of_peers

    @property
    def fetching(self) -> int:
        """Set of the chunks that are read from the source."""
        return bits.of(request.chunk for request in self._out.values() if request.peer is None)

    def get(self, number: int) -> Request | None:
        """One of them; None where it is over."""
        return self._out.get(number)

    def add(self, peer: str | None, chunk: int, now_s: float) -> int:
        """A new one's number."""
        config = self._config
        allowed_s = config.source_deadline_s if peer is None else config.deadline_s
        allowed_s += self._chunks[chunk].size_bytes / config.slow_bytes_s
        self._last += 1
        self._out[self._last] = Request(
            number=self._last, peer=peer, chunk=chunk, asked_s=now_s, deadline_s=now_s + allowed_s
        )
        self.asked |= 1 << chunk
        return self._last

    def end(self, number: int) -> Request | None:
        """One is over; None where it was before."""
        request = self._out.pop(number, None)
        if request is not None:
            self.asked &= ~(1 << request.chunk)
        return request

    def of(self, peer: str) -> list[Request]:
        """Those that a peer is to answer."""
        return [request for request in self._out.values() if request.peer == peer]

    def slept(self, seconds: float) -> None:
        """This node did nothing for so long: what has come meanwhile is still to be heard."""
        for number, request in self._out.items():
            self._out[number] = replace(request, deadline_s=request.deadline_s + seconds)

    def overdue(self, now_s: float) -> list[Request]:
        """Those whose time is over."""
        return [request for request in self._out.values() if now_s >= request.deadline_s]
