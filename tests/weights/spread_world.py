"""Nodes that fetch chunks from each other and from a source, on a virtual clock: plans without any I/O."""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from osai.core.manifest import Chunk
from osai.node.weights import bits
from osai.node.weights.blames import Blames, Fault
from osai.node.weights.chunk_plan import ChunkPlan
from osai.node.weights.plan_actions import Action, AskPeer, AskSource, Blame, Cancel, GiveUp, Keep, PlanConfig

TICK_S = 0.25
POLL_S = 0.5
WRONG = "0" * 64


def chunks_of(count: int, size_bytes: int = 4 * 2**20) -> tuple[Chunk, ...]:
    return tuple(
        Chunk(sha256=f"{i + 1:064x}", file="f", begin=i * size_bytes, end=(i + 1) * size_bytes) for i in range(count)
    )


class Clock:
    """Runs what is due, in order."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (self.now_s + delay_s, self._count, call))

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Whether `until` came true before the limit."""
        while self._due and not until():
            if self._due[0][0] > limit_s:
                return False
            self.now_s, _, call = heapq.heappop(self._due)
            call()
        return until()


@dataclass
class Source:
    """Counts what it gives."""

    reads: Counter[int] = field(default_factory=Counter)
    took_s: float = 0.05
    fails: bool = False


class Peer:
    """Somebody who answers requests: an honest one, or one of the kinds that Fault names.

    Attributes:
        honest: what it really has.
        claims: what it says it has.
    """

    def __init__(self, name: str, honest: int, claims: int | None = None, *, kind: Fault | None = None) -> None:
        self.name = name
        self.honest = honest
        self.claims = honest if claims is None else claims
        self.kind = kind

    def says(self) -> tuple[int, int, int]:
        return self.claims, 0, 0

    def answer(self, chunk: Chunk, number: int) -> str | Fault | None:
        """A digest, a fault, or nothing at all."""
        if self.kind is Fault.STALLED:
            return None
        if self.kind is Fault.WRONG:
            return WRONG
        if self.kind is not None:
            return self.kind
        return chunk.sha256 if self.honest >> number & 1 else Fault.NOT_HELD


class Node(Peer):
    """One that loads: its plan, and what it was told to do."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        chunks: Sequence[Chunk],
        source: Source | None,
        seed: int,
        *,
        config: PlanConfig | None = None,
        took_s: float = 0.05,
    ) -> None:
        super().__init__(name, 0)
        self.config = config or PlanConfig()
        self.chunks, self.clock, self.source, self.took_s = chunks, clock, source, took_s
        self.random = Random(seed)
        self.blames = Blames()
        self.plan = ChunkPlan(
            self.config, my_id=name, chunks=chunks, held=0, no_source="" if source else "there is no other place",
            blames=self.blames, random=self.random, now_s=clock.now_s,
        )  # fmt: skip
        self.peers: dict[str, Peer] = {}
        self.out: dict[int, tuple[str | None, int]] = {}
        self.brought: dict[int, str] = {}
        self.blamed: list[Blame] = []
        self.given_up: dict[int, str] = {}
        self.is_dead = False

    @property
    def is_done(self) -> bool:
        return not self.plan.missing

    def says(self) -> tuple[int, int, int]:
        return self.plan.held, self.plan.sought, self.plan.fetching

    def answer(self, chunk: Chunk, number: int) -> str | Fault | None:
        if self.is_dead:
            return None
        return chunk.sha256 if self.plan.held >> number & 1 else Fault.NOT_HELD

    def start(self, wanted: int) -> None:
        self.plan.open_source(self.clock.now_s)
        self.do(self.plan.want(wanted, self.clock.now_s))
        self._tick()

    def meet(self, peer: Peer) -> None:
        """From now on that one is asked what it has."""
        self.peers[peer.name] = peer
        self.do(self.plan.told(peer.name, *peer.says(), self.clock.now_s))
        self.clock.after(POLL_S, lambda: self._poll(peer))

    def _poll(self, peer: Peer) -> None:
        if self.is_dead or self.is_done:
            return
        if not (isinstance(peer, Node) and peer.is_dead):
            self.do(self.plan.told(peer.name, *peer.says(), self.clock.now_s))
        self.clock.after(POLL_S, lambda: self._poll(peer))

    def _tick(self) -> None:
        if self.is_dead or self.is_done:
            return
        self.do(self.plan.tick(self.clock.now_s))
        self.clock.after(TICK_S, self._tick)

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case AskPeer():
                    assert not self.blames.is_banned(action.peer)
                    self._ask(action.request, action.peer, action.chunk)
                    answer = self.peers[action.peer].answer(self.chunks[action.chunk], action.chunk)
                    if answer is not None:
                        self._later(action.request, answer, self.took_s)
                case AskSource():
                    assert self.source is not None
                    self._ask(action.request, None, action.chunk)
                    self.source.reads[action.chunk] += 1
                    answer = Fault.GONE if self.source.fails else self.chunks[action.chunk].sha256
                    self._later(action.request, answer, self.source.took_s)
                case Cancel():
                    self.out.pop(action.request, None)
                case Keep():
                    assert self.brought.pop(action.request) == self.chunks[action.chunk].sha256
                case Blame():
                    self.blamed.append(action)
                case GiveUp():
                    self.given_up[action.chunk] = action.reason

    def _ask(self, request: int, peer: str | None, chunk: int) -> None:
        assert chunk not in {other for _, other in self.out.values()}
        self.out[request] = (peer, chunk)
        per_peer = Counter(peer for peer, _ in self.out.values())
        assert per_peer.pop(None, 0) <= self.config.from_source
        assert sum(per_peer.values()) <= self.config.from_peers
        assert all(count <= self.config.per_peer for count in per_peer.values())

    def _later(self, request: int, answer: str | Fault, took_s: float) -> None:
        def come() -> None:
            if self.is_dead:
                return
            self.out.pop(request, None)
            if isinstance(answer, Fault):
                self.do(self.plan.failed(request, answer, self.clock.now_s))
            else:
                self.brought[request] = answer
                self.do(self.plan.arrived(request, answer, self.clock.now_s))

        self.clock.after(took_s * self.random.uniform(0.5, 1.5), come)


def whole(count: int) -> int:
    """The set of all chunks."""
    return bits.of(range(count))
